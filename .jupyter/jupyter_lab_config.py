"What `make lab` adds to a user's own configuration of JupyterLab: the page it opens with, and where stages run."

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class Kernels(AsyncMappingKernelManager):
    "Stages run at the root of the project, as under DVC; every other notebook in its own folder."

    def cwd_for_path(self, path, **kwargs):
        return self.root_dir if path.strip("/").partition("/")[0] == "pipelines" else super().cwd_for_path(path, **kwargs)


c = get_config()  # noqa: F821 (Jupyter puts it here)
c.ServerApp.kernel_manager_class = Kernels
c.LabApp.default_url = "/lab/tree/nbs/tutorials/start.ipynb"
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"  # requirements.lock decides
