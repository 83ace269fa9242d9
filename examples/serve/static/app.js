// Calls the two endpoints and draws their answers. All text is inserted as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

/** A new element; properties such as className or textContent, then its children. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A new element of SVG with attributes. */
function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** What the server answers; an Error whose message is for people otherwise. */
async function ask(path, body) {
  let response, answer;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    answer = await response.json();
  } catch {
    throw new Error("The server did not answer. Is it running? Please try again.");
  }
  if (response.ok) return answer;
  const seconds = response.headers.get("Retry-After");
  const error = answer.error ?? {};
  const again = seconds === null ? "" : ` Please try again in ${seconds} s.`;
  if (response.status === 429) throw new Error(`Too many requests.${again}`);
  if (response.status === 503) throw new Error(`The server is busy: ${error.message}.${again}`);
  if (response.status === 500) throw new Error(`An error occurred in the server (${error.id}).`);
  // Without the name of the field, which users do not know.
  const message = error.field ? error.message.slice(error.field.length + 2) : error.message;
  throw new Error(`The input was refused: ${message}.`);
}

/** Makes a form ask and show; what is sent meanwhile is asked afterwards, the latest of it. */
function connect(name, question, show) {
  const form = byId(name), error = byId(`${name}-error`), result = byId(`${name}-result`);
  const field = form.querySelector("input, textarea");
  let asking = false, again = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    again = asking;
    if (asking) return;
    asking = true;
    const asked = field.value;
    for (const part of [form, result]) part.setAttribute("aria-busy", "true");
    try {
      const { path, body } = question(asked);
      const answer = await ask(path, body);
      result.replaceChildren(...show(answer));
      error.hidden = true;
      field.removeAttribute("aria-invalid");
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
      field.setAttribute("aria-invalid", "true");
      result.replaceChildren();
    } finally {
      asking = false;
      for (const part of [form, result]) part.removeAttribute("aria-busy");
    }
    if (again && field.value !== asked) form.requestSubmit();
  });
}

/** A table of letters over phonemes, each cell as dark as the weight. */
function heatMap(said) {
  const letters = [...said.word];
  const head = element("tr", {}, element("td"));
  for (const letter of letters) head.append(element("th", { scope: "col", textContent: letter }));
  const body = element("tbody");
  said.phonemes.forEach((phoneme, index) => {
    const row = element("tr", {}, element("th", { scope: "row", textContent: phoneme }));
    said.attention[index].forEach((weight, at) => {
      const cell = element("td", { title: `${phoneme}, weight of ${letters[at]}: ${percent(weight)}` });
      cell.textContent = weight >= 0.05 ? Math.round(100 * weight) : "";
      cell.style.backgroundColor = `rgba(var(--heat), ${0.07 + 0.93 * weight})`;
      row.append(cell);
    });
    body.append(row);
  });
  return element(
    "table", { className: letters.length > 16 ? "heat long" : "heat", ariaLabel: `Attention of ${said.word} in percent` },
    element("thead", {}, head), body,
  );
}

function pronunciations(answer) {
  const many = answer.words.length > 3;  // then a list with folded maps
  return answer.words.map((said) => {
    const sure = element("small", {
      textContent: said.finished ? `  probability ${percent(said.probability)}` : "  cut off",
    });
    // With a name and a tab stop, so that it can be scrolled by keyboard.
    const map = [
      scrolling(`Attention map of ${said.word}`, heatMap(said)),
      element("p", { className: "note", textContent: "Attention of each phoneme to the letters, in %" }),
    ];
    const title = element("summary", { textContent: "Attention map" });
    return element(
      "article", { className: many ? "short" : "" },
      element("h3", { textContent: said.word }),
      element("p", { className: "said" }, said.phonemes.join(" ") || "(nothing)", sure),
      ...(many ? [element("details", {}, title, ...map)] : map),
    );
  });
}

function scrolling(name, content) {
  const box = element("div", { className: "scroll", tabIndex: 0 }, content);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", name);
  return box;
}

/** The probability after each word as a line, over the words. */
function course(words, width) {
  const left = 52, right = 16, top = 12, height = 180;
  const longest = Math.max(...words.map(({ word }) => Math.min(word.length, 14)));
  const step = Math.max(16, (width - left - right) / Math.max(1, words.length - 1));
  const whole = left + right + step * (words.length - 1);
  const below = 24 + 5.6 * longest;
  const x = (index) => left + step * index, y = (share) => top + height * (1 - share);
  const svg = shape("svg", {
    class: "chart", role: "img", width: whole, height: top + height + below,
    "aria-label": "Probability of positive after each word: " +
      words.map(({ word, probability }) => `${word} ${percent(probability)}`).join(", "),
  });
  for (const share of [0, 0.5, 1]) {
    const at = { x1: left - 6, x2: whole - 8, y1: y(share), y2: y(share) };
    svg.append(shape("line", { ...at, class: share === 0.5 ? "middle" : "grid" }));
    const label = { x: left - 10, y: y(share) + 4, "text-anchor": "end", class: "axis" };
    svg.append(shape("text", label, percent(share)));
  }
  const points = words.map(({ probability }, index) => `${x(index)},${y(probability)}`);
  svg.append(shape("polyline", { points: points.join(" "), class: "course" }));
  words.forEach(({ word, probability, known }, index) => {
    const kind = probability >= 0.5 ? "dot-up" : "dot-down";
    const dot = shape("circle", { cx: x(index), cy: y(probability), r: 5, class: kind });
    dot.append(shape("title", {}, `${word}: ${percent(probability)}`));
    const shown = word.length > 14 ? `${word.slice(0, 13)}…` : word;
    const place = { x: x(index), y: top + height + 18, "text-anchor": "end" };
    const turned = { transform: `rotate(-50 ${place.x + 4} ${place.y})` };
    svg.append(dot, shape("text", { ...place, ...turned, class: known ? "word" : "unknown" }, shown));
  });
  return svg;
}

function opinion(answer) {
  const positive = answer.probability >= 0.5;
  const small = element("small", { textContent: `  probability of positive ${percent(answer.probability)}` });
  const verdict = element("p", { className: `verdict ${positive ? "up" : "down"}` });
  verdict.append(positive ? "Positive" : "Negative", small);
  const width = Math.max(240, byId("review-result").clientWidth);
  const chart = scrolling("Prediction after each word", course(answer.words, width));
  const article = element("article", {}, verdict, chart);
  if (answer.words.some(({ known }) => !known)) {
    const note = "Words in italics did not occur in training: the model treats them all in the same way.";
    article.append(element("p", { className: "note", textContent: note }));
  }
  return [article];
}

connect("say", (value) => {
  const words = value.split(/\s+/).filter(Boolean);
  if (!words.length) throw new Error("Please type a word first.");
  return { path: "/api/pronounce", body: { words } };
}, pronunciations);

connect("review", (value) => {
  if (!value.trim()) throw new Error("Please type a review first.");
  return { path: "/api/sentiment", body: { text: value } };
}, opinion);

for (const button of document.querySelectorAll("button[data-for]")) {
  button.addEventListener("click", () => {
    const field = byId(button.dataset.for);
    field.value = button.textContent;
    field.form.requestSubmit();
  });
}
// Enter submits a review, as in the word field; Shift and Enter begin a new line.
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
});
