"use strict";
// The trained network in plain JavaScript: pixels in, the numbers that each layer gives out.
//
// A layer's numbers are one Float32Array in the order of Keras: row by row, in a row pixel by pixel, in a pixel channel
// by channel. NETWORK.layers has a layer's kind, the shape of its output, its options, and where in WEIGHTS its weights
// are.

const NETWORK = JSON.parse(document.getElementById("network").textContent);
const WEIGHTS = new Float32Array(bytes("weights").buffer);

/** The bytes that a script element holds in base64. */
function bytes(id) {
  const text = atob(document.getElementById(id).textContent), result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

/** What each layer gives for an image: raw pixels from 0 to 255. The last one gives the probabilities. */
function forward(pixels) {
  let values = pixels, shape = NETWORK.shape;
  return NETWORK.layers.map((layer) => {
    const weights = layer.arrays.map(([start, length]) => WEIGHTS.subarray(start, start + length));
    values = activate(LAYERS[layer.kind](values, shape, layer, ...weights), layer.activation, layer.shape.at(-1));
    shape = layer.shape;
    return values;
  });
}

const same = (values) => values;

const LAYERS = {
  Conv2D: convolve,
  MaxPooling2D: (...args) => pool(...args, -Infinity, Math.max, same),
  AveragePooling2D: (...args) => pool(...args, 0, add, (sum, count) => sum / count),
  GlobalAveragePooling2D: averageChannels,
  Dense: dense,
  BatchNormalization: scale, // training has made a factor and a shift for each channel of its statistics
  Rescaling: scale,
  ReLU: same, // the activation does the work
  Softmax: same,
  Activation: same,
  Flatten: same, // the numbers stand in a row already
  Reshape: same,
  Dropout: same, // drops nothing but in training
};

/** Each filter's sum of products at each position of the image. `kernel` is (height, width, channels, filters). */
function convolve(image, [height, width, channels], layer, kernel, bias) {
  const [rows, columns, filters] = layer.shape;
  const result = new Float32Array(rows * columns * filters), sums = new Float64Array(filters);
  let at = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at += filters) {
      sums.set(bias ?? sums.fill(0));
      for (const [y, x, tap] of positions(row, column, layer, [height, width], [rows, columns])) {
        addProducts(sums, image, (y * width + x) * channels, channels, kernel, tap * channels * filters);
      }
      result.set(sums, at);
    }
  }
  return result;
}

/** A sum of all inputs for each unit. `kernel` is (inputs, units). */
function dense(inputs, shape, layer, kernel, bias) {
  const units = layer.shape.at(-1), count = shape.at(-1), rows = inputs.length / count;
  const result = new Float32Array(rows * units), sums = new Float64Array(units);
  for (let row = 0; row < rows; row++) {
    sums.set(bias ?? sums.fill(0));
    addProducts(sums, inputs, row * count, count, kernel, 0);
    result.set(sums, row * units);
  }
  return result;
}

/** Add `count` inputs to the sums, each times its row of weights. Nearly all the time is spent here. */
function addProducts(sums, inputs, at, count, weights, start) {
  const width = sums.length;
  for (let end = at + count; at < end; at++, start += width) {
    const value = inputs[at];
    if (value === 0) continue; // as are about half of the numbers after ReLU
    for (let j = 0; j < width; j++) sums[j] += value * weights[start + j];
  }
}

/** Each channel's numbers in a window, joined into one: the largest or the mean. */
function pool(image, [height, width, channels], layer, start, join, finish) {
  const [rows, columns] = layer.shape, result = new Float32Array(rows * columns * channels);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const window = positions(row, column, layer, [height, width], [rows, columns]);
      for (let channel = 0; channel < channels; channel++) {
        let joined = start;
        for (const [y, x] of window) joined = join(joined, image[(y * width + x) * channels + channel]);
        result[at++] = finish(joined, window.length);
      }
    }
  }
  return result;
}

/** The positions [y, x, number in the window] that a window covers, without those outside of the image. */
function positions(row, column, { window, strides, padding }, size, grid) {
  // With padding "same", what the windows reach beyond the image is shared by both sides; the end takes the odd one.
  const [top, left] = [0, 1].map((axis) => {
    const beyond = Math.max((grid[axis] - 1) * strides[axis] + window[axis] - size[axis], 0);
    return [row, column][axis] * strides[axis] - (padding === "same" ? Math.floor(beyond / 2) : 0);
  });
  const covered = [];
  for (let i = 0; i < window[0]; i++) {
    for (let j = 0; j < window[1]; j++) {
      const y = top + i, x = left + j;
      if (y >= 0 && y < size[0] && x >= 0 && x < size[1]) covered.push([y, x, i * window[1] + j]);
    }
  }
  return covered;
}

/** The mean of each channel over the image. */
function averageChannels(image, shape) {
  const channels = shape.at(-1), sums = new Float64Array(channels);
  image.forEach((value, index) => { sums[index % channels] += value; });
  return Float32Array.from(sums, (sum) => (sum * channels) / image.length);
}

/** Each number times the factor of its channel, plus its shift; there may be one of them for all channels. */
function scale(values, shape, layer, factors, shifts) {
  return Float32Array.from(values, (value, i) => value * factors[i % factors.length] + shifts[i % shifts.length]);
}

/** What follows the sums: nothing, ReLU, or softmax over each `width` numbers. */
function activate(values, activation, width) {
  if (activation === "relu") return values.map((value) => Math.max(value, 0));
  if (activation !== "softmax") return values;
  const result = Float32Array.from(values);
  for (let start = 0; start < values.length; start += width) {
    const row = result.subarray(start, start + width), largest = Math.max(...row); // so that no power is too large
    row.forEach((value, i) => { row[i] = Math.exp(value - largest); });
    const total = row.reduce(add, 0);
    row.forEach((value, i) => { row[i] = value / total; });
  }
  return result;
}

function add(one, other) {
  return one + other;
}
