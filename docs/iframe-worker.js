// Pages opened from the disk must not start workers: this one runs its script in a hidden frame, so
// that the search works there too.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.body.append(frame);
      this.scope = frame.contentWindow;
      const load = (source) =>
        new Promise((loaded, failed) => {
          const script = this.scope.document.createElement('script');
          script.onload = loaded;
          script.onerror = failed;
          script.src = new URL(source, location.href);
          this.scope.document.body.append(script);
        });
      this.scope.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve());
      this.scope.postMessage = (data) => {
        const event = new MessageEvent('message', { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      this.ready = load(url);
    }

    postMessage(data) {
      this.ready.then(() => {
        this.scope.dispatchEvent(new this.scope.MessageEvent('message', { data }));
      });
    }
  };
}
