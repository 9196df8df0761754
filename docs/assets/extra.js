// Wide tables scroll sideways: the arrow keys can do it too. Material wraps them while the page is set up.
document$.subscribe(() =>
  requestAnimationFrame(() => {
    for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) {
      table.tabIndex = 0;
    }
  }),
);
