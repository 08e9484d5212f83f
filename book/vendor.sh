#!/bin/sh
# Fetches the book's web files again, by package name, from wherever npm and pip are set up to look; see _extra/README.md.
# Needs npm, and the project's Python (PYTHON=... names another) for the copy that anywidget brings.
set -eu
cd "$(dirname "$0")"
mkdir -p _extra/_static/widgets/fonts _extra/_static/mathjax/output/chtml/fonts/woff-v2
cd _extra/_static
python=${PYTHON:-../../../.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {  # npm package, version -> $work/package
    rm -rf "$work/package"
    tar -xzf "$work/$(npm pack --silent --pack-destination "$work" "$1@$2")" -C "$work"
}

fetch requirejs 2.3.8
cp "$work/package/require.js" widgets/require.js
fetch @jupyter-widgets/html-manager 1.0.15
cp "$work/package/dist/embed-amd.js" widgets/
for font in 1551f4f60c37af51121f 7a3337626410ca2f4071; do cp "$work/package/dist/$font.woff2" widgets/fonts/; done
fetch mathjax 3.2.2
cp "$work/package/es5/tex-chtml.js" mathjax/
cp "$work/package/LICENSE" mathjax/LICENSE.txt
cp "$work"/package/es5/output/chtml/fonts/woff-v2/* mathjax/output/chtml/fonts/woff-v2/
cp "$("$python" -c 'import anywidget, pathlib; print(pathlib.Path(anywidget.__file__).parent)')/nbextension/index.js" \
    widgets/anywidget.js
