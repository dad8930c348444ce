"use strict";
// What the lesson's figures are drawn with: SVG elements, grids of numbers, tiles of maps, charts of losses.

const find = (id) => document.getElementById(id);

/** An SVG element with attributes, and text or elements in it. */
function draw(tag, attributes = {}, ...inside) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function make(tag, className = "", ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

/** The same words in both languages; the style sheet shows one. */
function both(en, ko) {
  return [["en", en], ["ko", ko]].map(([lang, text]) => Object.assign(make("span", "", text), { lang }));
}

/** A short form of a number: whole where it is, else with at most `decimals`; a true minus sign. */
function short(value, decimals = 2) {
  const text = Number.isInteger(value) ? String(value) : value.toFixed(decimals);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A number without zeros at its end. */
const plain = (value) => short(Number(value.toFixed(2)), Number.isInteger(value * 10) ? 1 : 2);

const whole = (value) => value.toLocaleString("en");

/** A grid of numbers as an SVG of `rows` x `columns` cells, 60 units each.
 *  `look(row, column)` gives a cell's class, its share of colour from 0 to 1, its text, and the classes of that. */
function grid(rows, columns, look, label = "numbers") {
  const image = draw("svg", { viewBox: `-3 -3 ${60 * columns + 6} ${60 * rows + 6}`, role: "img", "aria-label": label });
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const { kind = "cell", share = 0, fill, texts = [], style = "", size = 24 } = look(row, column);
      const cell = draw("rect", { x: 60 * column, y: 60 * row, width: 60, height: 60, class: kind, "data-row": row, "data-column": column });
      cell.style.setProperty("--v", share.toFixed(3));
      if (fill) cell.style.fill = fill;
      image.append(cell);
      texts.forEach((text, i) => {
        const y = 60 * row + 31 + (i - (texts.length - 1) / 2) * size;
        image.append(draw("text", { x: 60 * column + 30, y, "font-size": size, class: `${style} label-${row}-${column}`, "pointer-events": "none" }, text));
      });
    }
  }
  return image;
}

/** A cell of a grey level from 0 to `high`. */
function greyCell(value, high, text = short(value)) {
  const share = value / high;
  return { share, texts: text === null ? [] : [text], style: value === 0 ? "zero" : share > 0.5 ? "on" : "off" };
}

/** A cell that is red above zero and blue below; `largest` is the deepest. */
function signedCell(value, largest, size = 24, text = short(value)) {
  const share = Math.abs(value) / (largest || 1);
  const style = share > 0.8 ? "on" : value === 0 ? "zero" : "off";
  return { kind: `cell ${value < 0 ? "below" : "above"}`, share: 0.85 * share, texts: text === null ? [] : [text], style, size };
}

function frame(row, column, rows, columns, width = 6) {
  return draw("rect", { x: 60 * column, y: 60 * row, width: 60 * columns, height: 60 * rows, class: "frame", "stroke-width": width });
}

const largestOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Draw one channel of numbers (height, width, channels) in a canvas of its size: red above zero and blue below. */
function paintMap(canvas, values, [height, width, channels = 1], channel, largest) {
  const style = getComputedStyle(document.documentElement);
  const [above, below] = ["--above", "--below"].map((name) => style.getPropertyValue(name).trim().split(" ").map(Number));
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = values[i * channels + channel];
    pixels.data.set(value > 0 ? above : below, 4 * i);
    pixels.data[4 * i + 3] = 255 * (Math.abs(value) / (largest || 1)) ** 0.7; // so that small numbers are seen too
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Draw an image as it is: light on dark where it is grey; the style sheet turns it into ink on paper. */
function paintImage(canvas, image, [height, width, channels = 1]) {
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let j = 0; j < 3; j++) pixels.data[4 * i + j] = image[channels * i + (j % channels)];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Round values from 0 to `top`, about four. */
function ticks(top) {
  const rough = top / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

/** The losses of a training by epoch, a ring on the best; where `shade`, what follows the best is coloured. */
function lossChart(rows, best, top, { width = 640, height = 560, shade = false } = {}) {
  const [left, right, high, low] = [90, width - 24, 24, height - 84], last = rows.at(-1).epoch;
  const x = (epoch) => left + ((right - left) * (epoch - 1 + (last === 1) / 2)) / Math.max(last - 1, 1);
  const y = (loss) => low - ((low - high) * Math.min(loss, top)) / top;
  const image = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": `loss by epoch, best ${best}` });
  for (const tick of ticks(top)) {
    image.append(draw("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }));
    const text = draw("text", { x: left - 12, y: y(tick) }, String(tick));
    text.style.textAnchor = "end";
    image.append(text);
  }
  const step = Math.max(1, Math.ceil(last / 6));
  for (let epoch = 1; epoch <= last; epoch += step) image.append(draw("text", { x: x(epoch), y: low + 30 }, String(epoch)));
  image.append(draw("text", { x: (left + right) / 2, y: height - 16 }, ...words("epoch", "에포크")));
  if (shade) image.append(draw("rect", { class: "after", x: x(best), y: high, width: right - x(best), height: low - high }));
  for (const [kind, key] of [["training", "loss"], ["validation", "val_loss"]]) {
    const line = draw("g", { class: kind }, draw("polyline", { points: rows.map((row) => `${x(row.epoch)},${y(row[key])}`).join(" ") }));
    for (const row of rows) line.append(draw("circle", { cx: x(row.epoch), cy: y(row[key]), r: 5 }));
    image.append(line);
  }
  const chosen = rows[best - 1], [at, up] = [x(best), y(chosen.val_loss)];
  image.append(draw("circle", { class: "best", cx: at, cy: up, r: 14 }));
  // Above all that is near, or where there is room between the lines, below.
  const middle = Math.min(Math.max(at, left + 64), right - 64), near = rows.filter((row) => Math.abs(x(row.epoch) - middle) < 90);
  const free = Math.min(...near.map((row) => y(Math.max(row.loss, row.val_loss)))) - 34;
  image.append(draw("text", { class: "loud", x: middle, y: shade ? up + 44 : Math.min(free, up - 40) }, `${best}: ${chosen.val_loss.toFixed(4)}`));
  return image;
}

/** Words in an SVG text, in both languages. */
function words(en, ko) {
  return [["en", en], ["ko", ko]].map(([lang, text]) => {
    const part = draw("tspan", {}, text);
    part.setAttribute("lang", lang);
    return part;
  });
}
