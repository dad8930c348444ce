"use strict";
// The page: what is drawn or opened -> the image that the network sees -> bars and pictures of the layers.

const find = (id) => document.getElementById(id);
/** A new element. */
const make = (tag, textContent = "", className = "") =>
  Object.assign(document.createElement(tag), { textContent, className });
const [HEIGHT, WIDTH] = NETWORK.shape, CHANNELS = NETWORK.shape[2] ?? 1;
const ENLARGED = Math.max(1, Math.round(420 / Math.max(HEIGHT, WIDTH))); // the field's pixels for one of the network's
const PAPER = NETWORK.digit ? 255 : 0; // digits are drawn as ink on paper, and turned; all else in white on black
const TOP = 10; // bars
const STEPS = 50; // that can be undone

const field = find("field"), pen = field.getContext("2d", { willReadFrequently: true });
field.width = ENLARGED * WIDTH;
field.height = ENLARGED * HEIGHT;

// `prepared` is what the network sees of a file or of a validation image; undefined where the field itself is prepared.
let state = { isBlank: true, isPhoto: false };
let activations = null; // of each layer; null while there is nothing to see
let language = "en";
const steps = [];

/** The probabilities of the classes for an image: raw pixels from 0 to 255. */
function classify(pixels) {
  activations = forward(pixels);
  return activations.at(-1);
}

/** The words for a key, in the page's language, with what is in braces filled in. */
function say(key, values = {}) {
  return WORDS[language][key].replace(/{(\w+)}/g, (_, name) => values[name]);
}

const number = (value) => value.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(2)}%`;

// ---- From the field to the answer

let isWaiting = false;
/** Look at the field anew, once before the next frame is shown, however much has happened. */
function look() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    find("hint").hidden = !state.isBlank;
    find("undo").disabled = !steps.length;
    field.classList.toggle("drawing", NETWORK.digit && !state.isPhoto);
    const seen = whatIsSeen();
    showSeen(seen);
    if (!seen) activations = null;
    showAnswer(seen && classify(Float32Array.from(seen.image)), seen?.label);
    showLayers();
  });
}

/** The image that the network gets, and what was done to get it; null where there is nothing to see. */
function whatIsSeen() {
  if (state.isBlank) return null;
  return "prepared" in state ? state.prepared : prepare(drawn(), NETWORK.shape, NETWORK.digit);
}

function drawn() {
  return pen.getImageData(0, 0, field.width, field.height);
}

function showSeen(seen) {
  if (seen) paint(find("seen"), seen.image);
  else [find("seen").width, find("seen").height] = [WIDTH, HEIGHT]; // which empties it
  const done = seen?.done.map(([word, ...sizes]) => say(word, sizes)).join(" → ");
  find("done").textContent = seen ? done || say("unchanged") : state.isBlank ? "" : say("noInk");
}

/** Draw an image, pixel by pixel, in a canvas of its size. */
function paint(canvas, image, change = (value) => value) {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pixels = new ImageData(WIDTH, HEIGHT);
  for (let i = 0; i < WIDTH * HEIGHT; i++) {
    for (let j = 0; j < 3; j++) pixels.data[4 * i + j] = change(image[CHANNELS * i + (j % CHANNELS)]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The most probable class in large letters, and a bar for each class, or for the most probable ones of many.
 *  `label` is the right class where it is known. */
function showAnswer(probabilities, label) {
  const order = NETWORK.classes.map((_, label) => label);
  if (probabilities) order.sort((one, other) => probabilities[other] - probabilities[one]);
  const best = probabilities ? order[0] : -1, shown = order.slice(0, TOP);
  if (NETWORK.classes.length <= TOP) shown.sort((one, other) => one - other);
  find("bars").replaceChildren(...shown.map((label) => bar(label, probabilities?.[label], label === best)));
  const isSure = probabilities?.[best] >= NETWORK.sure, isWrong = label !== undefined && label !== best;
  const name = probabilities ? NETWORK.classes[best] + (isSure ? "" : "?") : "–";
  const verdict = isWrong ? say("wrong", { label: NETWORK.classes[label] }) : say(isSure ? "sure" : "unsure");
  const words = probabilities ? `${percent(probabilities[best])} · ${verdict}` : say("nothing");
  const large = make("b", name, name.length > 6 ? "long" : "");
  find("answer").replaceChildren(large, make("span", words, probabilities && (isWrong || !isSure) ? "bad" : ""));
}

function bar(label, probability, isBest) {
  const row = make("li", "", isBest ? "best" : ""), name = make("span", NETWORK.classes[label]);
  name.title = name.textContent;
  row.style.setProperty("--share", probability ?? 0);
  row.append(name, make("i"), make("em", probability === undefined ? "" : percent(probability)));
  return row;
}

// ---- Drawing

/** Change to a new state, so that it can be undone. */
function change(next) {
  steps.push({ ...state, pixels: drawn() });
  if (steps.length > STEPS) steps.shift();
  state = next;
  find("message").textContent = "";
  look();
}

function undo() {
  if (!steps.length) return;
  const { pixels, ...before } = steps.pop();
  pen.putImageData(pixels, 0, 0);
  state = before;
  look();
}

function wipe() {
  pen.fillStyle = `rgb(${PAPER} ${PAPER} ${PAPER})`;
  pen.fillRect(0, 0, field.width, field.height);
}

function clear() {
  if (state.isBlank) return;
  change({ isBlank: true, isPhoto: false });
  wipe();
}

function line(from, to) {
  const ink = state.isPhoto && NETWORK.digit ? 0 : 255 - PAPER;
  pen.strokeStyle = `rgb(${ink} ${ink} ${ink})`;
  pen.lineWidth = (find("brush").value / 100) * Math.min(field.width, field.height);
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
  look();
}

function position(event) {
  const box = field.getBoundingClientRect(), ratio = field.width / box.width;
  return [ratio * (event.clientX - box.left), ratio * (event.clientY - box.top)];
}

let last = null; // where the finger or the mouse is drawing
field.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  field.setPointerCapture(event.pointerId);
  change({ isBlank: false, isPhoto: state.isPhoto });
  last = position(event);
  line(last, last);
});
field.addEventListener("pointermove", (event) => {
  if (!last || !event.isPrimary) return;
  for (const each of [...event.getCoalescedEvents(), event]) {
    const next = position(each);
    line(last, next);
    last = next;
  }
});
for (const name of ["pointerup", "pointercancel"]) field.addEventListener(name, () => { last = null; });

// ---- Keys: a pen that the arrows move

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let cursor = [field.width / 2, field.height / 2], isDown = false;

field.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const step = event.shiftKey ? ENLARGED : field.width / 14, limits = [field.width, field.height];
    const next = cursor.map((value, axis) => clamp(value + step * arrow[axis], 0, limits[axis]));
    if (isDown) line(cursor, next);
    cursor = next;
  } else if (event.key === " ") {
    isDown = !isDown;
    if (isDown) {
      change({ isBlank: false, isPhoto: state.isPhoto });
      line(cursor, cursor);
    }
  } else return;
  event.preventDefault();
  showCursor(true);
});
field.addEventListener("blur", () => showCursor(isDown = false));
field.addEventListener("pointerdown", () => showCursor(isDown = false));

function showCursor(isShown) {
  const circle = find("cursor");
  circle.hidden = !isShown;
  circle.classList.toggle("down", isDown);
  circle.style.left = `${(100 * cursor[0]) / field.width}%`;
  circle.style.top = `${(100 * cursor[1]) / field.height}%`;
  circle.style.width = circle.style.height = `${(find("brush").value / 100) * field.clientWidth}px`;
}

document.addEventListener("keydown", (event) => {
  const isCommand = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" || event.key === "Delete") clear();
  else if (isCommand && event.key.toLowerCase() === "z") undo();
  else if (isCommand) return; // the browser's own, as to enlarge the page
  else if (event.key === "+" || event.key === "=") find("brush").stepUp(2);
  else if (event.key === "-") find("brush").stepDown(2);
  else return;
  isDown = false;
  if (!find("cursor").hidden) showCursor(true);
});

// ---- Pictures

/** Show a picture in the field; the network gets it as `make predict` would, from all of its pixels. */
async function openPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch { // whatever is wrong with a file, this is what its owner can be told
    find("message").textContent = say("noPicture", { name: file.name });
    return;
  }
  const whole = make("canvas"), context = whole.getContext("2d", { willReadFrequently: true });
  [whole.width, whole.height] = [bitmap.width, bitmap.height];
  context.fillStyle = "white"; // where it is transparent
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(bitmap, 0, 0);
  const prepared = prepare(context.getImageData(0, 0, whole.width, whole.height), NETWORK.shape, NETWORK.digit);
  change({ isBlank: false, prepared, isPhoto: true });
  const ratio = Math.min(field.width / whole.width, field.height / whole.height);
  const [width, height] = [ratio * whole.width, ratio * whole.height];
  wipe();
  pen.imageSmoothingEnabled = ratio < 4;
  pen.drawImage(whole, (field.width - width) / 2, (field.height - height) / 2, width, height);
}

const openFirst = (files) => { if (files.length) openPicture(files[0]); };
find("file").addEventListener("change", ({ target }) => {
  openFirst([...target.files]);
  target.value = ""; // so that the same file can be opened again
});
document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    field.parentElement.classList.toggle("over", name === "dragover");
    if (name === "drop") openFirst(event.dataTransfer.files);
  });
}

/** The validation images as buttons. */
const EXAMPLES = NETWORK.labels.map((label, index) => {
  const size = HEIGHT * WIDTH * CHANNELS, image = bytes("images").subarray(index * size, (index + 1) * size);
  const expected = NETWORK.expected[index], answer = expected.indexOf(Math.max(...expected));
  const names = [...new Set([label, answer])].map((each) => NETWORK.classes[each]);
  const button = make("button", "", answer === label ? "" : "wrong"), canvas = make("canvas");
  button.type = "button";
  paint(canvas, image);
  button.append(canvas, make("span", names.join("→")));
  button.addEventListener("click", () => {
    change({ isBlank: false, prepared: { image, label, done: [["example"]] }, isPhoto: false });
    const enlarged = make("canvas");
    paint(enlarged, image, (value) => Math.abs(PAPER - value));
    pen.imageSmoothingEnabled = false;
    pen.drawImage(enlarged, 0, 0, field.width, field.height);
  });
  return { image, expected, label, answer, button };
});

/** Hold the page against Keras' probabilities, an image at a time, so that drawing is not held up. */
async function check() {
  let difference = 0;
  for (const { image, expected } of EXAMPLES) {
    await new Promise((resolve) => { setTimeout(resolve); });
    forward(Float32Array.from(image)).at(-1).forEach((value, label) => {
      difference = Math.max(difference, Math.abs(value - expected[label]));
    });
  }
  return difference;
}

let difference = null; // the largest, once they are compared
function showChecked() {
  if (difference === null || !EXAMPLES.length) return;
  const isRight = difference < 1e-4, decimals = clamp(Math.ceil(-Math.log10(difference || 1)), 2, 9);
  const values = { count: EXAMPLES.length, difference: difference.toFixed(decimals) };
  find("checked").textContent = say(isRight ? "checked" : "differs", values);
  find("checked").classList.toggle("bad", !isRight);
}

// ---- Language, and the start

function translate() {
  const code = location.hash.slice(1);
  language = code in WORDS ? code : navigator.language.startsWith("ko") ? "ko" : "en";
  document.documentElement.lang = language;
  document.querySelectorAll("[data-word]").forEach((each) => { each.textContent = say(each.dataset.word); });
  for (const link of document.querySelectorAll("nav a")) {
    link.toggleAttribute("aria-current", link.lang === language);
  }
  const { name, dataset, parameters, classes, right, total } = NETWORK;
  const facts = [say("facts", { name, dataset, parameters: number(parameters), classes: number(classes.length) })];
  if (total) facts.push(say("accuracy", { right: number(right), total: number(total) }));
  find("facts").textContent = facts.join(" · ");
  field.setAttribute("aria-label", say("field"));
  find("seen").setAttribute("aria-label", say("seen"));
  find("brush").setAttribute("aria-label", say("brush"));
  for (const { label, answer, button } of EXAMPLES) {
    const values = { label: NETWORK.classes[label], answer: NETWORK.classes[answer] };
    button.title = say(label === answer ? "exampleRight" : "exampleWrong", values);
    button.setAttribute("aria-label", button.title);
  }
  writeLayers();
  showChecked();
  look();
}

find("clear").addEventListener("click", clear);
find("undo").addEventListener("click", undo);
find("hint").classList.toggle("light", !NETWORK.digit);
find("bars").classList.toggle("long", NETWORK.classes.some((name) => name.length > 3));
find("examples").replaceChildren(...EXAMPLES.map(({ button }) => {
  const item = make("li");
  item.append(button);
  return item;
}));
addEventListener("hashchange", translate);
addEventListener("resize", look);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look);
wipe();
translate();
check().then((largest) => {
  difference = largest;
  showChecked();
});
