// Markdown as nodes of the document. Text of a model becomes text nodes and nothing else; there is
// no way from it to markup.

/** Quotes and lists inside each other beyond this are shown as they are written. */
const MAX_DEPTH = 6;

const FENCE = /^ {0,3}(`{3,}(?![^`]*`)|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(\S.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+)(?=\S)/;
const QUOTE = /^ {0,3}> ?/;
const INLINE = new RegExp(
  [
    /(`+)(?!`)([\s\S]*?[^`])\1(?!`)/, // 1, 2: code
    /\*\*(?=\S)([\s\S]*?\S)\*\*/, // 3: bold
    /(?<![\w*])\*(?=[^\s*])([^*]*?[^\s*])\*(?![\w*])/, // 4: italic
    /\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/, // 5, 6: link
  ].map((part) => part.source).join("|"),
  "g",
);

/** An element with properties and children; a text is a text node. */
function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A whole text, also one that is not at its end yet. */
function markdown(text) {
  return blocks(text.split(/\r\n|\n|\r/), 0);
}

function blocks(lines, depth) {
  const all = document.createDocumentFragment();
  for (let at = 0; at < lines.length; ) {
    const [block, next] = blockAt(lines, at, depth);
    if (block) all.append(block);
    at = next;
  }
  return all;
}

/** The block that begins at a line, and the line after it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(heading[1].length + 2, 6);
    return [el(`h${level}`, {}, inline(heading[2])), at + 1];
  }
  if (RULE.test(line)) return [el("hr"), at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) {
    const end = until(lines, at, (next) => !QUOTE.test(next));
    const inner = lines.slice(at, end).map((quoted) => quoted.replace(QUOTE, ""));
    return [el("blockquote", {}, blocks(inner, depth + 1)), end];
  }
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  const begins = (next) => !next.trim() || [FENCE, HEADING, RULE, QUOTE, ITEM].some((kind) => kind.test(next));
  const end = until(lines, at, begins);
  return [el("p", {}, inline(lines.slice(at, end).join("\n"))), end];
}

/** The first line after `at` for which it holds. */
function until(lines, at, holds) {
  const rest = lines.slice(at + 1).findIndex(holds);
  return rest < 0 ? lines.length : at + 1 + rest;
}

function code(lines, at, [, mark, language]) {
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  const end = until(lines, at, closes);
  const text = lines.slice(at + 1, end).join("\n");
  const block = el("pre", { tabIndex: 0 }, el("code", {}, text));
  if (language) block.dataset.language = language;
  return [block, end + 1];
}

/** Items of one kind; what is indented further belongs to the item above. */
function list(lines, at, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(marker);
  const element = isOrdered ? el("ol", { start: parseInt(marker, 10) }) : el("ul");
  const isItem = (line) => {
    const item = ITEM.exec(line);
    return item && item[1].length <= indent.length && /\d/.test(item[2]) === isOrdered;
  };
  const isInside = (line, next) =>
    line.trim() ? line.startsWith(indent + "  ") : next?.startsWith(indent + "  ");
  while (at < lines.length && isItem(lines[at])) {
    const width = ITEM.exec(lines[at])[0].length;
    let end = at + 1;
    while (end < lines.length && !isItem(lines[end]) && isInside(lines[end], lines[end + 1])) end += 1;
    const inner = lines.slice(at, end).map((line, index) =>
      index ? line.slice(Math.min(width, line.search(/\S|$/))) : line.slice(width));
    element.append(el("li", {}, blocks(inner, depth + 1)));
    at = end;
    // An empty line between two items.
    if (at + 1 < lines.length && !lines[at].trim() && isItem(lines[at + 1])) at += 1;
  }
  return [element, at];
}

function inline(text) {
  const all = document.createDocumentFragment();
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    all.append(text.slice(at, found.index));
    const [whole, , coded, bold, italic, label, address] = found;
    if (coded !== undefined) all.append(el("code", {}, coded));
    else if (bold !== undefined) all.append(el("strong", {}, inline(bold)));
    else if (italic !== undefined) all.append(el("em", {}, inline(italic)));
    else all.append(el("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label));
    at = found.index + whole.length;
  }
  all.append(text.slice(at));
  return all;
}
