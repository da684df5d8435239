"""The companion: a language model that writes and understands lyrics. Needs the extra `lyrics`."""

import warnings

# Of peft, which asks transformers by a name that is on its way out: nothing that a user could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
