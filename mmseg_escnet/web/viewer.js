// Picture, classes over it, legend, score maps. Runs with gr.HTML's `element`, `props`, `watch` and
// `trigger`. `props.value` is the last message of wire.py. Names come from people: they are only
// ever written as text (textContent, title), never as HTML.

const find = (name) => element.querySelector('.viewer' + (name && '-' + name));
const root = find('');
const picture = find('picture');
const fill = find('fill');
const edges = find('edges');
const tip = find('tip');
const slider = find('opacity').querySelector('input');

let shown = null; // the result that is shown, with its maps unpacked
let latest = 0; // number of the last message: unpacking takes a while

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function unpack(base64) {
  const stream = new Blob([bytes(base64)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream('deflate'));
  return new Response(inflated).arrayBuffer();
}

// A colour as canvases have it in a Uint32Array.
function packColor([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

async function receive() {
  const message = props.value;
  const number = ++latest;
  if (!message) return;
  if (message.kind === 'scores') {
    if (shown?.key !== message.key) return;
    const values = new Uint8Array(await unpack(message.map));
    shown.scoreMaps.set(message.class_id, { ...message, values });
    if (number === latest) showScores(message.class_id);
    return;
  }
  const labels = message.labels && new Uint16Array(await unpack(message.labels));
  const scores = message.scores && new Uint8Array(await unpack(message.scores));
  if (number !== latest) return;
  picture.src = message.picture;
  // few pixels are drawn large, so that outlines are thin
  const factor = Math.max(1, Math.ceil(480 / Math.max(message.width, message.height)));
  for (const canvas of [fill, edges]) {
    canvas.width = message.width * factor;
    canvas.height = message.height * factor;
  }
  root.style.setProperty('--aspect', message.width / message.height);
  root.dataset.state = message.kind;
  root.classList.toggle('viewer-pixels', factor > 1);
  tip.hidden = true;
  if (message.kind === 'picture') {
    shown = null;
    return;
  }
  shown = { ...message, factor, labels, scores, scoreMaps: new Map(), scoresOf: null };
  shown.byId = new Map(shown.classes.map((each) => [each.id, each]));
  for (const each of shown.classes) each.on = true;
  writeLegend();
  showClasses();
}

function writeLegend() {
  const rows = shown.classes.map((each) => {
    const row = document.createElement('li');
    row.dataset.id = each.id;
    row.classList.toggle('viewer-absent', each.share === 0);
    const box = document.createElement('input');
    box.type = 'checkbox';
    box.checked = true;
    box.ariaLabel = 'Show ' + each.name;
    box.style.accentColor = `rgb(${each.color.join()})`;
    box.addEventListener('change', () => {
      each.on = box.checked;
      showClasses();
    });
    const swatch = document.createElement('span');
    swatch.className = 'viewer-swatch';
    swatch.style.backgroundColor = `rgb(${each.color.join()})`;
    const name = document.createElement('button');
    name.type = 'button';
    name.className = 'viewer-name';
    name.dir = 'auto';
    name.title = each.name;
    name.textContent = each.name;
    name.addEventListener('click', () => askForScores(each.id));
    const share = document.createElement('span');
    share.className = 'viewer-share';
    share.textContent = percent(each.share);
    row.append(box, swatch, name, share);
    return row;
  });
  find('legend').replaceChildren(...rows);
}

function percent(share) {
  if (share === 0) return '–';
  return share >= 0.001 ? (100 * share).toFixed(1) + ' %' : '< 0.1 %';
}

// Paint both layers: colorOf(index of a map's pixel) for each pixel, outlines where isEdge says so.
function paint(colorOf, edgeColorOf) {
  const { factor, width } = shown;
  const columns = fill.width;
  const rows = fill.height;
  const colors = new Uint32Array(columns * rows);
  const outlines = new Uint32Array(columns * rows);
  const at = (x, y) => Math.floor(y / factor) * width + Math.floor(x / factor);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const here = at(x, y);
      const pixel = y * columns + x;
      colors[pixel] = colorOf(here);
      const right = x + 1 < columns ? at(x + 1, y) : here;
      const down = y + 1 < rows ? at(x, y + 1) : here;
      for (const [other, beside] of [[right, pixel + 1], [down, pixel + columns]]) {
        if (shown.labels[other] !== shown.labels[here]) {
          outlines[pixel] = edgeColorOf(here) || outlines[pixel];
          outlines[beside] = edgeColorOf(other) || outlines[beside];
        }
      }
    }
  }
  for (const [canvas, content] of [[fill, colors], [edges, outlines]]) {
    const data = new ImageData(new Uint8ClampedArray(content.buffer), columns, rows);
    canvas.getContext('2d').putImageData(data, 0, 0);
  }
}

function showClasses() {
  shown.scoresOf = null;
  markScores();
  const table = new Uint32Array(65536);
  for (const each of shown.classes) if (each.on) table[each.id] = packColor(each.color);
  const colorOf = (index) => table[shown.labels[index]];
  paint(colorOf, colorOf);
}

function showScores(classId) {
  const { values, highest, colors } = shown.scoreMaps.get(classId);
  shown.scoresOf = classId;
  markScores();
  const palette = bytes(colors);
  const table = Uint32Array.from({ length: 256 }, (_, value) =>
    packColor(palette.subarray(3 * value, 3 * value + 3)));
  const outline = packColor([255, 255, 255]);
  paint(
    (index) => table[values[index]],
    (index) => (shown.labels[index] === classId ? outline : 0),
  );
  const scale = find('scale').querySelector('canvas').getContext('2d');
  scale.putImageData(new ImageData(new Uint8ClampedArray(table.buffer), 256, 1), 0, 0);
  find('highest').textContent = highest.toFixed(2);
  find('mode-name').textContent = shown.byId.get(classId).name;
}

function markScores() {
  const classId = shown.scoresOf;
  find('mode').hidden = classId === null;
  for (const row of find('legend').children) {
    const isShown = Number(row.dataset.id) === classId;
    row.classList.toggle('viewer-current', isShown);
    row.querySelector('.viewer-name').ariaPressed = String(isShown);
  }
}

function askForScores(classId) {
  if (shown.scoresOf === classId) showClasses();
  else if (shown.scoreMaps.has(classId)) showScores(classId);
  else trigger('select', { class_id: classId });
}

function setAll(on) {
  for (const each of shown.classes) each.on = on;
  for (const box of find('legend').querySelectorAll('input')) box.checked = on;
  showClasses();
}

// Index of the map's pixel below the pointer.
function pixelBelow(event) {
  const box = picture.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * shown.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * shown.height);
  const inside = x >= 0 && y >= 0 && x < shown.width && y < shown.height;
  return inside ? y * shown.width + x : null;
}

function hover(event) {
  const index = shown && pixelBelow(event);
  tip.hidden = index === null;
  if (index === null) return;
  const map = shown.scoreMaps.get(shown.scoresOf);
  const each = map ? shown.byId.get(shown.scoresOf) : shown.byId.get(shown.labels[index]);
  const score = map ? map.values[index] * map.highest : shown.scores[index];
  find('tip-name').textContent = each ? each.name : '(no class)';
  find('tip-score').textContent = (score / 255).toFixed(2);
  const box = find('stage').getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const left = x + 14 + tip.offsetWidth > box.width ? x - 14 - tip.offsetWidth : x + 14;
  const top = y + 14 + tip.offsetHeight > box.height ? y - 14 - tip.offsetHeight : y + 14;
  tip.style.transform = `translate(${Math.max(0, left)}px, ${Math.max(0, top)}px)`;
}

function setOpacity() {
  fill.style.opacity = slider.value / 100;
}

find('stage').addEventListener('pointermove', hover);
find('stage').addEventListener('pointerdown', hover);
find('stage').addEventListener('pointerleave', () => { tip.hidden = true; });
find('stage').addEventListener('click', (event) => {
  const index = shown && pixelBelow(event);
  if (index !== null && shown.byId.has(shown.labels[index])) askForScores(shown.labels[index]);
});
find('all').addEventListener('click', () => setAll(true));
find('none').addEventListener('click', () => setAll(false));
find('back').addEventListener('click', showClasses);
slider.addEventListener('input', setOpacity);
setOpacity();
watch('value', receive);
receive();
