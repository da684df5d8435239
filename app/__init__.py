"""A web page that plays while it generates: `python -m app`.

service, models, takes, prompts and guide do the work and know nothing of the page; http serves sound; page and the
tabs are Gradio's.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, wherever that is
