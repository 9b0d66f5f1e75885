"use strict";
// The operations of a served net, from its OpenAPI description.

const facts = JSON.parse(byId("facts").textContent);

function drawOperation(path, method, operation) {
  const heading = `${method.toUpperCase()} ${path}`;
  const parameters = operation.parameters ?? [];
  const body = operation.requestBody;
  const sends = method === "post" ? "-F file=@photo.jpg " : "";
  const answers = Object.entries(operation.responses).filter(([code]) => code !== "200");
  return el(
    "section",
    { id: path.slice(1), "aria-label": heading },
    el("h2", { class: "mono" }, heading),
    el("p", {}, operation.description),
    command(`curl ${sends}${location.origin}${path}`, path),
    parameters.length || body
      ? el(
          "dl",
          { class: "pairs operation" },
          parameters.flatMap((one) => [
            el("dt", { class: "mono" }, `?${one.name}=`),
            el("dd", {}, one.description ?? ""),
          ]),
          body ? [el("dt", {}, "body"), el("dd", {}, body.description)] : [],
        )
      : null,
    answers.length
      ? el(
          "details",
          {},
          el("summary", {}, "Errors"),
          el(
            "dl",
            { class: "pairs" },
            answers.flatMap(([code, one]) => [el("dt", { class: "mono" }, code), el("dd", {}, one.description)]),
          ),
        )
      : null,
  );
}

byId("about").textContent =
  'Every answer is one line of JSON; an error is {"error": "…"} with its status.';
byId("made-by").textContent = `Made by Resight ${facts.resight}.`;
byId("operations").replaceChildren(
  ...Object.entries(facts.openapi.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => drawOperation(path, method, operation)),
  ),
);
