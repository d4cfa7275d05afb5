// What is wrong with the input, as text. Runs with gr.HTML's `element`, `props` and `watch`.
const paragraph = element.querySelector('.notice');

function show() {
  const { text = '', level = 'note' } = props.value ?? {};
  paragraph.textContent = text;
  paragraph.dataset.level = level;
  paragraph.hidden = !text;
}

watch('value', show);
show();
