"use strict";
// The layers as rows: what each one does, and pictures of the numbers that it gave.

const SAME = ["Flatten", "Reshape", "Dropout"]; // give the numbers of the layer before
const scratch = document.createElement("canvas");

/** A row for each layer: its name, what it does, its shape, and a canvas where its numbers are new. */
function writeLayers() {
  const rows = NETWORK.layers.map((layer, index) => {
    const row = make("li"), words = make("div"), shape = layer.shape.join(" × ");
    const what = explain(layer, NETWORK.layers[index - 1]?.shape ?? NETWORK.shape);
    words.append(make("b", layer.name), make("span", shape, "shape soft"), make("div", what, "soft"));
    row.append(words);
    if (!SAME.includes(layer.kind)) {
      const canvas = make("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${layer.name}, ${shape}`);
      row.append(canvas);
    }
    return row;
  });
  find("layers").replaceChildren(...rows);
}

/** What a layer does, in a few words. */
function explain(layer, before) {
  const [factor, shift] = layer.arrays.map(([start]) => WEIGHTS[start]);
  const isToOne = layer.kind === "Rescaling" && Math.abs(255 * factor - 1) < 1e-4 && shift === 0;
  const [units, inputs] = [layer.shape, before].map((shape) => number(shape.at(-1)));
  const values = { window: layer.window?.join("×"), units, inputs, factor };
  const named = ["ReLU", "Softmax"].includes(layer.kind) || layer.activation === "linear";
  const activation = named ? "" : { relu: "ReLU", softmax: "softmax" }[layer.activation];
  const what = [say(isToOne ? "pixels" : layer.kind, values), activation].filter(Boolean).join(" → ");
  return layer.parameters ? `${what} · ${say("parametersOf", { count: number(layer.parameters) })}` : what;
}

/** Draw what each layer gave: channels as tiles, numbers in a row as cells. */
function showLayers() {
  const style = getComputedStyle(document.documentElement), isWide = innerWidth >= 960; // words beside pictures
  const colours = ["--above", "--below"].map((name) => style.getPropertyValue(name).trim().split(" ").map(Number));
  [...find("layers").children].forEach((row, index) => {
    const canvas = row.querySelector("canvas");
    if (!canvas) return;
    const room = row.clientWidth - (isWide ? row.firstChild.clientWidth + 24 : 0), { shape } = NETWORK.layers[index];
    drawTiles(canvas, room, activations?.[index], shape, colours, style.getPropertyValue("--card"));
  });
}

function drawTiles(canvas, room, values, shape, colours, ground) {
  const isImage = shape.length > 1, [height, width, tiles = 1] = isImage ? shape : [1, 1, shape[0]];
  const gap = isImage ? 4 : 1, most = isImage ? (tiles === 1 ? 112 : 72) : 22;
  const columns = across(tiles, Math.floor(room / (isImage ? 36 : 9))), rows = Math.ceil(tiles / columns);
  const size = Math.min(Math.floor(room / columns) - gap, most);
  const tall = Math.max(1, Math.round((size * height) / width));
  const whole = [columns * (size + gap), rows * (tall + gap)];
  [canvas.width, canvas.height] = whole.map((length) => Math.round(length * devicePixelRatio));
  canvas.style.width = `${whole[0]}px`;
  const context = canvas.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  context.imageSmoothingEnabled = false;
  context.fillStyle = ground;
  if (values) stack(values, height, width, tiles, colours);
  for (let tile = 0; tile < tiles; tile++) {
    const x = (tile % columns) * (size + gap), y = Math.floor(tile / columns) * (tall + gap);
    context.fillRect(x, y, size, tall);
    if (values) context.drawImage(scratch, 0, tile * height, width, height, x, y, size, tall);
  }
}

/** So many tiles next to each other that all rows are full, if such a number is near to what there is room for. */
function across(tiles, room) {
  const most = Math.max(1, Math.min(tiles, room));
  for (let columns = most; 2 * columns > most; columns--) if (tiles % columns === 0) return columns;
  return most;
}

/** Put the channels below one another on the scratch canvas: the farther from zero, the more opaque. */
function stack(values, height, width, tiles, [above, below]) {
  scratch.width = width;
  scratch.height = height * tiles;
  const pixels = new ImageData(scratch.width, scratch.height);
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  values.forEach((value, i) => {
    const offset = 4 * ((i % tiles) * height * width + Math.floor(i / tiles));
    pixels.data.set(value > 0 ? above : below, offset);
    pixels.data[offset + 3] = 255 * (Math.abs(value) / largest) ** 0.7; // so that small numbers are seen too
  });
  scratch.getContext("2d").putImageData(pixels, 0, 0);
}
