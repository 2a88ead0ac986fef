// Shows /openapi.json: every operation with its parameters and schemas, and a way to try it.
"use strict";

const DEPTH_MAX = 6;
let api = null;

// Makes an element. Text goes in as text, never as markup.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

// Paragraphs, list items after "- ", and `code`.
function prose(text) {
  const box = make("div");
  for (const line of (text || "").split("\n").filter((l) => l.trim())) {
    const item = make("p");
    line.split("`").forEach((part, i) => {
      item.append(i % 2 ? make("code", {}, part) : part);
    });
    box.append(item);
  }
  return box;
}

function resolve(schema) {
  if (!schema) return {};
  if (schema.$ref) {
    const target = schema.$ref.split("/").slice(1).reduce((at, key) => at[key], api);
    return { ...target, description: schema.description || target.description,
      name: schema.$ref.split("/").pop() };
  }
  if (schema.anyOf) {
    return { ...resolve(schema.anyOf[0]), description: schema.description };
  }
  return schema;
}

function typeName(schema) {
  const found = resolve(schema);
  if (found.type === "array") return typeName(found.items) + "[]";
  if (found.enum) return found.title;
  if (found.name) {
    const last = found.name.split(".").slice(-1)[0];
    return last.replace("Patch", found.title || "object");
  }
  const kinds = Array.isArray(found.type) ? found.type : [found.type || "any"];
  const base = kinds.filter((k) => k !== "null").join(" or ");
  return found.format ? base + " (" + found.format + ")" : base;
}

function tree(schema, depth) {
  let found = resolve(schema);
  if (found.type === "array") found = resolve(found.items);
  if (found.enum) return make("div", { class: "tree" }, prose(found.description));
  if (!found.properties || depth > DEPTH_MAX) return null;
  const box = make("div", { class: "tree" });
  for (const [name, field] of Object.entries(found.properties)) {
    const flags = [
      (found.required || []).includes(name) ? "required" : "",
      field.readOnly ? "read only" : "",
      field.writeOnly ? "write only" : "",
    ].filter(Boolean).join(", ");
    const head = make("div", {}, make("code", {}, name), " ",
      make("span", { class: "type" }, typeName(field)), " ",
      make("span", { class: "flag" }, flags));
    const more = resolve(field.type === "array" ? field.items : field);
    box.append(head, prose(field.description || ""));
    if (more.properties || more.enum) {
      const inner = make("details", {}, make("summary", {}, typeName(field)));
      // Filled when opened, so that the page starts fast.
      inner.addEventListener("toggle", () => {
        if (inner.children.length === 1) inner.append(tree(field, depth + 1) || "");
      });
      box.append(inner);
    }
  }
  return box;
}

function parameters(operation) {
  const list = operation.parameters || [];
  if (!list.length) return null;
  const table = make("table", {}, make("tr", {}, make("th", {}, "Parameter"),
    make("th", {}, "Type"), make("th", {}, "Meaning")));
  for (const p of list) {
    table.append(make("tr", {},
      make("td", {}, make("code", {}, p.name), " ",
        make("span", { class: "flag" }, p.in + (p.required ? ", required" : ""))),
      make("td", {}, typeName(p.schema)), make("td", {}, prose(p.description))));
  }
  return table;
}

function contentSchema(part) {
  return part && part.content ? part.content["application/json"].schema : null;
}

// A form that sends the request and shows the answer.
function tryIt(path, verb, operation) {
  const box = make("details", {}, make("summary", {}, "Try it"));
  const inputs = (operation.parameters || []).map((p) => {
    const input = make("input", { placeholder: p.name, "aria-label": p.name });
    box.append(make("div", {}, make("label", {}, p.name + " ", input)));
    return [p, input];
  });
  const body = operation.requestBody ? make("textarea", { "aria-label": "Request body" }) : null;
  if (body) {
    body.value = "{\n}";
    box.append(body);
  }
  const out = make("pre", { class: "hidden" });
  const send = make("button", {}, "Send");
  send.addEventListener("click", async () => {
    let target = path;
    const query = new URLSearchParams();
    for (const [p, input] of inputs) {
      if (p.in === "path") {
        const value = input.value.split("/").map(encodeURIComponent).join("/");
        target = target.replace("{" + p.name + "}", value);
      } else if (input.value) {
        query.append(p.name, input.value);
      }
    }
    const suffix = query.size ? "?" + query : "";
    out.classList.remove("hidden");
    out.textContent = "...";
    try {
      const reply = await fetch(target + suffix, { method: verb.toUpperCase(),
        headers: body ? { "content-type": "application/json" } : {},
        body: body ? body.value : undefined, signal: AbortSignal.timeout(30000) });
      const text = await reply.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not one object */ }
      out.textContent = reply.status + " " + reply.statusText + "\n" + shown;
    } catch (error) {
      out.textContent = String(error);
    }
  });
  box.append(send, out);
  return box;
}

function operationView(path, verb, operation) {
  const body = make("div");
  const view = make("details", { class: "op", id: operation.operationId },
    make("summary", {}, make("span", { class: "verb " + verb }, verb),
      make("span", { class: "path" }, path),
      make("span", { class: "summary" }, operation.operationId)), body);
  view.addEventListener("toggle", () => {
    if (body.children.length) return;
    body.append(prose(operation.description));
    const table = parameters(operation);
    if (table) body.append(table);
    const request = contentSchema(operation.requestBody);
    if (request) body.append(make("h4", {}, "Body: " + typeName(request)), tree(request, 0) || "");
    const reply = contentSchema(operation.responses["200"]);
    if (reply) body.append(make("h4", {}, "Answer: " + typeName(reply)), tree(reply, 0) || "");
    body.append(tryIt(path, verb, operation));
  });
  return view;
}

function show() {
  const main = document.getElementById("main");
  const index = document.getElementById("index");
  document.getElementById("version").textContent = api.info.version;
  main.replaceChildren(make("h1", {}, api.info.title), prose(api.info.description));
  for (const tag of api.tags) {
    const section = make("section", {}, make("h2", {}, tag.name), prose(tag.description));
    const links = make("div", {}, make("h2", {}, tag.name));
    for (const [path, verbs] of Object.entries(api.paths)) {
      for (const [verb, operation] of Object.entries(verbs)) {
        if (!operation.tags.includes(tag.name)) continue;
        section.append(operationView(path, verb, operation));
        links.append(make("a", { href: "#" + operation.operationId }, operation.operationId));
      }
    }
    main.append(section);
    index.append(links);
  }
  follow();
}

// Opens the operation that the address names.
function follow() {
  const view = document.getElementById(location.hash.slice(1));
  if (view && view.tagName === "DETAILS") {
    view.open = true;
    view.scrollIntoView();
  }
}

function filter(text) {
  const wanted = text.toLowerCase();
  for (const link of document.querySelectorAll("#index a")) {
    const hit = link.textContent.toLowerCase().includes(wanted);
    link.classList.toggle("hidden", !hit);
    document.getElementById(link.textContent).classList.toggle("hidden", !hit);
  }
}

window.addEventListener("hashchange", follow);
document.getElementById("filter").addEventListener("input", (e) => filter(e.target.value));
fetch("/openapi.json").then((reply) => reply.json()).then((json) => {
  api = json;
  show();
}).catch((error) => {
  document.getElementById("main").textContent = "Cannot read /openapi.json: " + error;
});
