"""Table -> ClipPlan -> VideoBatch: the plan decides who sees which frames, DALI makes the pixels."""
