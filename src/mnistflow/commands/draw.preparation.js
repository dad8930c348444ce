"use strict";
// A picture -> the image that the network sees, step by step as in src/mnistflow/data: preparation.py, decoding.py.
// The reasons, and where the numbers come from, stand there.
//
// A picture is { width, height, channels }: a Float32Array of levels from 0 to 255 for each channel, row by row.

const BOX = 20 / 28, SLACK = 2, LARGEST = 1024, CONTRAST = 24, NOISE = 6, EDGE = 0.15, SPECK = 0.03, FAINT = 230;

/** The pixels as the network wants them, and what was done, in words and numbers; null where no ink is found. */
function prepare(rgba, shape, isDigit) {
  const picture = shape.length === 2 ? grey(rgba) : colours(rgba);
  const [height, width] = shape;
  if (isDigit) return digit(picture, height, width);
  const done = picture.width === width && picture.height === height ? [] : [["resized", picture.width, picture.height]];
  return { image: interleaved(fit(picture, height, width)), done };
}

/** Red, green and blue. */
function colours(rgba) {
  return { width: rgba.width, height: rgba.height, channels: [0, 1, 2].map((i) => levels(rgba, (data, at) => data[at + i])) };
}

/** Grey levels as Pillow makes them. */
function grey(rgba) {
  const level = (data, at) => (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 32768) >> 16;
  return { width: rgba.width, height: rgba.height, channels: [levels(rgba, level)] };
}

/** A number for each pixel. */
function levels({ data }, level) {
  const values = new Float32Array(data.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = level(data, 4 * i);
  return values;
}

/** The picture at its full aspect ratio in the middle of a black image. */
function fit(picture, height, width) {
  if (picture.width === width && picture.height === height) return picture;
  const ratio = Math.min(width / picture.width, height / picture.height);
  const inner = [picture.height, picture.width].map((length) => Math.max(1, round(ratio * length)));
  const top = Math.floor((height - inner[0]) / 2), left = Math.floor((width - inner[1]) / 2);
  const channels = picture.channels.map((values) => {
    const scaled = resize({ ...picture, channels: [values] }, inner[0], inner[1], BICUBIC);
    return paste(scaled, top, left, height, width);
  });
  return { width, height, channels };
}

/** A digit in MNIST's form: light ink on black, its longer side 20 of 28 pixels, its centre of mass in the middle. */
function digit(picture, height, width) {
  const done = [], factor = Math.ceil(Math.max(picture.width, picture.height) / LARGEST);
  let { values, ...size } = reduce(picture, factor);
  let border = median(edge(values, size));
  const [lowest, highest] = range(values);
  if (border - lowest > highest - border) {
    values = values.map((value) => 255 - value);
    border = 255 - border;
    done.push(["inverted"]);
  }
  if (isInForm(values, size, height, width)) return { image: Uint8Array.from(values), done };
  const outer = edge(values, size);
  const isFlat = outer.filter((value) => Math.abs(value - border) <= 2).length > outer.length / 2;
  let ink = findInk(values, size, isFlat ? border : null);
  if (!ink) return null;
  if (!isFlat) done.push(["cleaned"]);
  ink = crop(ink, size);
  done.push(["cropped", ink.width * factor, ink.height * factor]);
  const box = round(BOX * Math.min(height, width)), longer = Math.max(ink.width, ink.height);
  if (longer < box - SLACK || longer > box) {
    const [rows, columns] = [ink.height, ink.width].map((length) => Math.max(1, round((length * box) / longer)));
    const scaled = resize(ink, rows, columns, LANCZOS);
    ink = { ...scaled, channels: [scaled.channels[0].map((value) => clamp(value, 0, 255))] };
    done.push(["scaled", ink.width, ink.height]);
  }
  const [y, x] = centre(ink);
  const top = clamp(round(height / 2 - y), 0, height - ink.height);
  const left = clamp(round(width / 2 - x), 0, width - ink.width);
  return { image: Uint8Array.from(paste(ink, top, left, height, width), round), done: [...done, ["centred"]] };
}

/** Means of squares of `factor` x `factor` pixels. */
function reduce({ width, height, channels: [values] }, factor) {
  if (factor === 1) return { width, height, values };
  const columns = Math.ceil(width / factor), rows = Math.ceil(height / factor);
  const sums = new Float32Array(rows * columns), counts = new Float32Array(rows * columns);
  values.forEach((value, i) => {
    const at = Math.floor(Math.floor(i / width) / factor) * columns + Math.floor((i % width) / factor);
    sums[at] += value;
    counts[at]++;
  });
  return { width: columns, height: rows, values: sums.map((sum, i) => sum / counts[i]) };
}

function isInForm(values, size, height, width) {
  if (size.height !== height || size.width !== width || !values.some((value) => value > 0)) return false;
  const ink = crop(values, size), longer = Math.max(ink.width, ink.height);
  const [y, x] = centre({ ...size, channels: [values] }), box = round(BOX * Math.min(height, width));
  const off = Math.max(Math.abs(y - height / 2), Math.abs(x - width / 2));
  return longer >= box - SLACK && longer <= box && off <= 0.51;
}

/** Light ink without its background, null where there is none. A photo's background has no one level; it is null. */
function findInk(values, size, background) {
  const isPhoto = background === null;
  let ink = isPhoto ? withoutPaper(values, size) : values.map((value) => value - background);
  const deviations = (isPhoto ? ink : edge(ink, size)).map(Math.abs), noise = 1.4826 * median(deviations);
  ink = ink.map((value) => Math.max(value, 0));
  const threshold = otsu(ink), strong = ink.filter((value) => value > threshold);
  const level = strong.length ? quantile(strong, 0.95) : 0;
  if (level < Math.max(CONTRAST, NOISE * noise)) return null;
  const limit = Math.max(3 * noise, EDGE * level), { parts, count } = label(ink, size, limit);
  let weights = new Float64Array(count + 1);
  ink.forEach((value, i) => { if (value > threshold) weights[parts[i]] += value; });
  weights[0] = 0; // what is in no part
  if (isPhoto) {
    const outside = new Set(edge(parts, size)), inner = weights.map((weight, part) => (outside.has(part) ? 0 : weight));
    weights = inner.some((weight) => weight > 0) ? inner : weights;
  }
  const least = Math.max(SPECK * Math.max(...weights), 1), gain = level < FAINT ? 255 / level : 1;
  return ink.map((value, i) => (weights[parts[i]] >= least ? clamp(gain * value, 0, 255) : 0));
}

/** A photo less its paper, which is what is left when all that is narrower than a third of the photo is cut off. */
function withoutPaper(values, size) {
  const window = Math.floor(Math.max(size.width, size.height) / 3) + 1, half = Math.floor(window / 2);
  const smooth = blur(values, size, 1);
  const eroded = slide(smooth, size, half, window - half - 1, (one, other) => one <= other);
  const opened = slide(eroded, size, window - half - 1, half, (one, other) => one >= other);
  const paper = blur(opened, size, 3), ink = smooth.map((value, i) => value - paper[i]), middle = median(ink);
  return ink.map((value) => value - middle);
}

/** Apply `change` to each row, then to each column. `change` takes the line and gives the new one. */
function lines(values, { width, height }, change) {
  const result = Float32Array.from(values);
  for (let y = 0; y < height; y++) result.set(change(result.slice(y * width, (y + 1) * width)), y * width);
  for (let x = 0; x < width; x++) {
    const column = change(Float32Array.from({ length: height }, (_, y) => result[y * width + x]));
    for (let y = 0; y < height; y++) result[y * width + x] = column[y];
  }
  return result;
}

/** A Gaussian filter; beyond the border, the picture is mirrored. */
function blur(values, size, deviation) {
  const reach = 4 * deviation, weights = [];
  for (let i = -reach; i <= reach; i++) weights.push(Math.exp((-i * i) / (2 * deviation * deviation)));
  const total = weights.reduce(add);
  const mirror = (i, length) => {
    const at = ((i % (2 * length)) + 2 * length) % (2 * length);
    return at < length ? at : 2 * length - 1 - at;
  };
  return lines(values, size, (line) => line.map((_, at) => {
    let sum = 0;
    for (let i = -reach; i <= reach; i++) sum += weights[i + reach] * line[mirror(at + i, line.length)];
    return sum / total;
  }));
}

/** The smallest or largest level from `before` pixels before each one to `after` behind it. */
function slide(values, size, before, after, isBetter) {
  return lines(values, size, (line) => {
    const queue = []; // positions that may still be the best of a window, the best first
    let first = 0, next = 0;
    return line.map((_, at) => {
      for (; next <= Math.min(at + after, line.length - 1); next++) {
        while (queue.length > first && isBetter(line[next], line[queue.at(-1)])) queue.pop();
        queue.push(next);
      }
      while (queue[first] < at - before) first++;
      return line[queue[first]];
    });
  });
}

/** The number of the part that each pixel belongs to, 0 for none: pixels over the limit that touch, also by corners. */
function label(values, { width, height }, limit) {
  const parts = new Int32Array(values.length);
  let count = 0;
  for (let start = 0; start < values.length; start++) {
    if (parts[start] || values[start] <= limit) continue;
    parts[start] = ++count;
    for (const open = [start]; open.length;) {
      const at = open.pop(), y = Math.floor(at / width), x = at % width;
      for (let i = Math.max(y - 1, 0); i <= Math.min(y + 1, height - 1); i++) {
        for (let j = Math.max(x - 1, 0); j <= Math.min(x + 1, width - 1); j++) {
          const near = i * width + j;
          if (parts[near] || values[near] <= limit) continue;
          parts[near] = count;
          open.push(near);
        }
      }
    }
  }
  return { parts, count };
}

/** Otsu's threshold: the level that divides the values into the two groups that differ most. */
function otsu(values) {
  const counts = new Float64Array(256);
  for (const value of values) counts[Math.min(Math.floor(value), 255)]++;
  const total = counts.reduce((sum, count, level) => sum + count * level, 0);
  let below = 0, sum = 0, best = 0, threshold = 0;
  counts.forEach((count, level) => {
    below += count;
    sum += count * level;
    const above = values.length - below, difference = below * above * (sum / below - (total - sum) / above) ** 2;
    if (difference > best) [best, threshold] = [difference, level];
  });
  return threshold;
}

// Pillow's filters: `reach` pixels to each side. Of pictures in bytes, what each pass gives is a byte again.
const LANCZOS = { weigh: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0), reach: 3, finish: (value) => value };
const BICUBIC = { weigh: bicubic, reach: 2, finish: (value) => clamp(Math.round(value), 0, 255) };

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function bicubic(x) {
  const t = Math.abs(x);
  if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
  return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
}

/** Pillow's resize: rows, then columns. A new pixel is the mean of those under the filter; to shrink, it is widened. */
function resize({ width, height, channels: [values] }, rows, columns, filter) {
  const narrowed = new Float32Array(height * columns), result = new Float32Array(rows * columns);
  taps(width, columns, filter).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      const sum = weights.reduce((total, weight, j) => total + weight * values[y * width + first + j], 0);
      narrowed[y * columns + x] = filter.finish(sum);
    }
  });
  taps(height, rows, filter).forEach(({ first, weights }, y) => {
    for (let x = 0; x < columns; x++) {
      const sum = weights.reduce((total, weight, j) => total + weight * narrowed[(first + j) * columns + x], 0);
      result[y * columns + x] = filter.finish(sum);
    }
  });
  return { width: columns, height: rows, channels: [result] };
}

/** For each of `after` new pixels of a line, the first of the `before` old ones that count, and the weights. */
function taps(before, after, { weigh, reach }) {
  const ratio = before / after, widened = Math.max(ratio, 1);
  return Array.from({ length: after }, (_, i) => {
    const middle = (i + 0.5) * ratio, first = Math.max(Math.trunc(middle - reach * widened + 0.5), 0);
    const end = Math.min(Math.trunc(middle + reach * widened + 0.5), before);
    const weights = Array.from({ length: end - first }, (_, j) => weigh((j + first - middle + 0.5) / widened));
    const total = weights.reduce(add);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** The part of the picture that has ink. */
function crop(values, { width, height }) {
  let [top, left, bottom, right] = [height, width, 0, 0];
  values.forEach((value, i) => {
    if (value <= 0) return;
    const y = Math.floor(i / width), x = i % width;
    [top, left, bottom, right] = [Math.min(top, y), Math.min(left, x), Math.max(bottom, y + 1), Math.max(right, x + 1)];
  });
  const size = { width: right - left, height: bottom - top };
  return { ...size, channels: [paste({ width, height, channels: [values] }, -top, -left, size.height, size.width)] };
}

/** The picture on black, from this row and column on; what lies outside is cut off. */
function paste({ width, height, channels: [values] }, top, left, rows, columns) {
  const result = new Float32Array(rows * columns);
  for (let y = Math.max(top, 0); y < Math.min(top + height, rows); y++) {
    for (let x = Math.max(left, 0); x < Math.min(left + width, columns); x++) {
      result[y * columns + x] = values[(y - top) * width + x - left];
    }
  }
  return result;
}

/** The centre of mass: row and column. */
function centre({ width, channels: [values] }) {
  let [total, down, across] = [0, 0, 0];
  values.forEach((value, i) => {
    total += value;
    down += value * Math.floor(i / width);
    across += value * (i % width);
  });
  return [down / total, across / total];
}

/** All channels of the first pixel, then those of the second one, and so on. */
function interleaved({ channels }) {
  const count = channels.length, length = count * channels[0].length;
  return Uint8Array.from({ length }, (_, i) => round(channels[i % count][Math.floor(i / count)]));
}

/** The outermost values; the corners count twice. */
function edge(values, { width, height }) {
  const left = Array.from({ length: height }, (_, y) => values[y * width]);
  const right = Array.from({ length: height }, (_, y) => values[(y + 1) * width - 1]);
  return [...values.subarray(0, width), ...values.subarray(values.length - width), ...left, ...right];
}

function range(values) {
  let [lowest, highest] = [Infinity, -Infinity];
  for (const value of values) [lowest, highest] = [Math.min(lowest, value), Math.max(highest, value)];
  return [lowest, highest];
}

function median(values) {
  return quantile(values, 0.5);
}

/** Between two values, a straight line, as NumPy does. */
function quantile(values, share) {
  const sorted = Float32Array.from(values).sort(), position = share * (sorted.length - 1), below = Math.floor(position);
  return sorted[below] + (position - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

function clamp(value, lowest, highest) {
  return Math.min(Math.max(value, lowest), highest);
}

/** To the nearest whole number, halves to the even one, as Python does. */
function round(value) {
  const nearest = Math.round(value);
  return nearest - value === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}
