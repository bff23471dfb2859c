"""Makes a process that reads clips die, or hang, at the sample that the environment names."""

import os
import signal
import sys
import time

if "pipeline.worker" in " ".join(sys.orig_argv):
    import pipeline.clip_reader as module

    read_plan = module.ClipReader.read_plan

    def struck(self, plan, *arguments):
        if str(plan.sample_id) == os.environ.get("DEADLY_SAMPLE"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if str(plan.sample_id) == os.environ.get("HANGING_SAMPLE"):
            time.sleep(600)
        return read_plan(self, plan, *arguments)

    module.ClipReader.read_plan = struck
