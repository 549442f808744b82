"""Forms: how factors make a layer's weight and act on an input, one file each; importing this registers them."""

from tnkit.nn.forms.base import FORMS, Factors, Form, KernelForm, MatrixForm, form_from_config
from tnkit.nn.forms.channel import ChannelForm
from tnkit.nn.forms.common_rows import CommonRowsForm
from tnkit.nn.forms.convolution import Convolution
from tnkit.nn.forms.cp import CPForm
from tnkit.nn.forms.kernel_network import KernelNetworkForm
from tnkit.nn.forms.low_rank import LowRankForm
from tnkit.nn.forms.network import NetworkForm, bucket
from tnkit.nn.forms.partial import PartialForm, ResizedForm
from tnkit.nn.forms.sparse import SparseForm
from tnkit.nn.forms.spatial import SpatialForm
from tnkit.nn.forms.tucker2 import Tucker2Form

__all__ = [
    "FORMS",
    "CPForm",
    "ChannelForm",
    "CommonRowsForm",
    "Convolution",
    "Factors",
    "Form",
    "KernelForm",
    "KernelNetworkForm",
    "LowRankForm",
    "MatrixForm",
    "NetworkForm",
    "PartialForm",
    "ResizedForm",
    "SparseForm",
    "SpatialForm",
    "Tucker2Form",
    "bucket",
    "form_from_config",
]
