"""The page in the browser. Only :mod:`.page` needs gradio, the extra ``web``."""
