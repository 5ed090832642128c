"use strict";
// Tables that sort, details that open for print, contents that fold on a phone.
(() => {
  document.documentElement.classList.add("js");

  const keyOf = (row, column) => row.cells[column].dataset.key ?? "";
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  function sort(table, heading) {
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const given = rows.filter((row) => keyOf(row, column) !== "");
    const missing = rows.filter((row) => keyOf(row, column) === ""); // last, in either direction
    given.sort((a, b) => (up ? 1 : -1) * compare(keyOf(a, column), keyOf(b, column)));
    table.tBodies[0].append(...given, ...missing);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
    }
  }

  window.saveFile = (uri, name, extension) => {
    const link = document.createElement("a");
    link.href = uri;
    link.download = `${name.replace(/[^\w.-]+/g, "_")}.${extension}`;
    document.body.append(link);
    link.click();
    link.remove();
  };

  for (const image of document.querySelectorAll("main figure img")) {
    const holder = document.createElement("span"), button = document.createElement("button");
    holder.className = "picture";
    button.type = "button"; button.className = "save"; button.textContent = "Save";
    button.setAttribute("aria-label", `Save the picture: ${image.alt.slice(0, 120)}`);
    const extension = image.src.startsWith("data:image/svg") ? "svg" : "png";
    button.addEventListener("click", () => window.saveFile(image.src, image.dataset.name || image.alt.slice(0, 60), extension));
    image.replaceWith(holder);
    holder.append(image, button);
  }

  for (const button of document.querySelectorAll("button.copy")) {
    const source = document.getElementById(button.dataset.from);
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(source);
      window.getSelection().removeAllRanges();
      window.getSelection().addRange(range);
      try { await navigator.clipboard.writeText(source.innerText); } catch { document.execCommand("copy"); }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  const contents = document.querySelector(".toc");
  if (!window.matchMedia("(min-width: 64rem)").matches) contents.open = false;

  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details:not([open])")) { each.open = true; opened.push(each); }
  });
  window.addEventListener("afterprint", () => { for (const each of opened.splice(0)) each.open = false; });
})();
