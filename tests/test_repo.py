"What is generated is fresh: the package, the README."

import filecmp
import importlib.util
import re
import shutil
import subprocess
import sys

import nbformat


def test_package_is_a_fresh_export(root, tmp_path):
    for name in ("nbs", "stockml"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "pyproject.toml", "setup.py"):
        shutil.copy(root / name, tmp_path / name)
    for module in (tmp_path / "stockml").glob("*.py"):
        module.unlink()
    (tmp_path / "stockml/__init__.py").write_text("")
    subprocess.run([sys.executable, "-c", "import nbdev; nbdev.nbdev_export()"], cwd=tmp_path, check=True)
    fresh = sorted(p.name for p in (tmp_path / "stockml").glob("*.py"))
    assert fresh == sorted(p.name for p in (root / "stockml").glob("*.py"))
    _, changed, errors = filecmp.cmpfiles(root / "stockml", tmp_path / "stockml", fresh, shallow=False)
    assert not changed + errors, f"run nbdev_export: {changed + errors}"


def test_notebooks_are_as_the_hooks_leave_them(root, tmp_path):
    shutil.copytree(root / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(root / "settings.ini", tmp_path)
    subprocess.run([sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__('nbs')"], cwd=tmp_path, check=True)
    clean = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*.ipynb")}
    assert len(clean) > 30
    assert not [str(name) for name, path in clean.items() if path.read_bytes() != (root / name).read_bytes()], "run nbdev_clean --fname nbs"


def test_tutorials_have_no_outputs_but_the_crash_and_lead_somewhere(root):
    for path in (root / "nbs/tutorials").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert path.name == "crash.ipynb" or not [c for c in cells if c.get("outputs")], path.name
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        links = re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r'src="(?!http)([^"]+)"', text)
        assert not [link for link in links if not (path.parent / link).is_file()], path.name


def test_readme_is_rendered_from_index(root):
    spec = importlib.util.spec_from_file_location("readme", root / "docs/readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (root / "README.md").read_text()
    assert text == readme.render(nbformat.read(root / "nbs/index.ipynb", as_version=4)), "run `make readme`"
    assert "SUMMARY" not in text
