"""New processes for tests that read files back, each forked from a Python that has imported and done nothing else."""

import json
import subprocess
import sys
from pathlib import Path

SERVER = """
import json, os, sys, traceback
import bitsandbytes, torch, transformers.models.llama.modeling_llama
from slimsweep.models.families import families
from slimsweep.models.storage import saved_model

families()
for line in sys.stdin:
    code, arguments, out = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    sys.argv, status = ["-c", *arguments], 1
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        exec(compile(code, "<new process>", "exec"), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
os._exit(0)  # an interpreter with these libraries takes seconds to end
"""


class NewProcesses:
    """Runs code in new processes, which share with this one only files and the environment."""

    def __init__(self, folder: Path):
        """`folder` takes what the processes print."""
        self._out = str(folder / "printed")
        command = [sys.executable, "-c", SERVER]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, code: str, *arguments: object) -> str:
        """Run code with these words in `sys.argv`; returns what it printed.

        Raises:
            AssertionError: it ended with an error, whose traceback is the message.
        """
        print(json.dumps([code, [*map(str, arguments)], self._out]), file=self._server.stdin, flush=True)
        status = self._server.stdout.readline().strip()
        assert status == "0", Path(f"{self._out}.err").read_text()
        return Path(f"{self._out}.out").read_text()

    def close(self) -> None:
        """End the Python that new processes are forked from."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
