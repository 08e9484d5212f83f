// Runs after require.js and before embed-amd.js: what a widget asks for, it finds beside this file, never on the network.
(function () {
  "use strict";
  var here = new URL(".", document.currentScript.src).href;
  window.requirejs.config({
    baseUrl: here,
    // embed-amd.js takes the place of its own modules for the place of its fonts
    paths: { "@jupyter-widgets/html-manager": "fonts/html-manager", "@jupyter-widgets/html-manager/dist": "fonts" },
  });
  document.currentScript.dataset.jupyterWidgetsCdn = here; // where embed-amd.js looks for a module that baseUrl lacks
  // Widgets ask MathJax 2 to typeset their labels (MathJax.Hub.Queue); the book's pages carry MathJax 3.
  window.addEventListener("load", function () {
    if (!window.MathJax || window.MathJax.Hub) return;
    window.MathJax.Hub = {
      Queue: function (call) {
        if (window.MathJax.typesetPromise) window.MathJax.typesetPromise([call[2]]);
      },
    };
  });
})();
