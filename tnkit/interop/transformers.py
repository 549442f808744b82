"""Hugging Face's transformers: with this module imported, `AutoModel.from_pretrained` reads compressed models.

`tk.nn.compress` writes what it did into the configuration of a Hugging Face model, so `save_pretrained` writes a folder
as for any other model; this module tells transformers how such a folder is read. Nothing is downloaded.

Example:
    >>> import tempfile
    >>> import tnkit as tk, tnkit.interop.transformers
    >>> from transformers import AutoModel, BertConfig, BertModel
    >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> small, _ = tk.nn.compress(BertModel(BertConfig(vocab_size=50, **sizes)).eval(), tk.Budget(params=0.5))
    >>> folder = tempfile.mkdtemp()
    >>> small.save_pretrained(folder)
    >>> AutoModel.from_pretrained(folder).num_parameters() == small.num_parameters()
    True
"""

from __future__ import annotations

from tnkit.interop.folders import LocalModel, load_folder, register

__all__ = ["LocalModel", "load_folder", "register"]

register()
