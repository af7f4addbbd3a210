// On a phone each row of a table is a block (pages.css); a cell of three or more then needs its column's name.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils")) {
    const names = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    if (names.length < 3) continue;
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.cells].forEach((cell, index) => { if (index && names[index] && cell.textContent.trim()) cell.dataset.column = names[index] + ": "; });
  }
  // Long names in tables break at their joints, not in the middle of a word.
  for (const code of document.querySelectorAll("article table.docutils code span.pre"))
    code.innerHTML = code.innerHTML.replace(/(::|[_/])/g, "$1<wbr>");
});
