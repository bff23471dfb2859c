"""The page of a run: facts of its folder, mistakes of its evaluation, charts, and the HTML that shows them."""
