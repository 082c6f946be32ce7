"nbval compares the outputs of cells that were run; nbdev_clean blanks the counter by which it tells."


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "cell"):
            item.cell.execution_count = 1
