"""Interactive charts on one page: `python -m mnistflow.commands.plots` writes dvc_plots/index.html.

`dvc plots show` loads the code of its charts from the network. Here, that code is in the page.
"""

import subprocess

import vl_convert

from mnistflow.commands import repro
from mnistflow.core import cli, files
from mnistflow.core.errors import WorkflowError

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<link rel="icon" href="data:,">
<title>mnistflow: charts</title>
<script>{code}</script>
<style>
body {{ font: 16px system-ui, sans-serif; margin: clamp(1rem, 3vw, 2rem); }}
img {{ max-width: 100%; }} [id$=_csv] {{ overflow-x: auto; }}
</style>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def main() -> None:
    """Write the page."""
    repro.check_up_to_date()  # of what is missing, DVC would show nothing and call it success
    template = files.cache() / "charts.html"
    # DVC replaces {plot_divs}, and leaves all other braces alone.
    files.write_text(template, PAGE.format(code=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")))
    command = [*repro.DVC, "plots", "show", "--html-template", str(template)]
    if subprocess.run(command, env=repro.environment(), check=False).returncode:
        raise WorkflowError("`dvc plots show` failed, see above.")


if __name__ == "__main__":
    cli.run(main)
