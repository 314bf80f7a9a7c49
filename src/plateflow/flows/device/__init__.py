"""The same on a device that torch takes: flows to labels in a few large operations, equal bit for bit to the CPU's.

A canvas lies on the device as a whole, and every point, seed and object is worked on at once: no loop over any of them.
Positions, counts and basins are integers; what is float64 (flow error, targets) is added in the order of the compiled
code, each operation by itself, so that nothing is contracted, and summed up on the CPU, as the design asks. Finding
boxes, filling holes and numbering stay compiled code on the CPU.
"""

from plateflow.flows.device.follow import follow_on
from plateflow.flows.device.objects import LabelledCanvas, label_on
from plateflow.flows.device.quality import flow_errors_on, flows_on, measure

__all__ = ["LabelledCanvas", "flow_errors_on", "flows_on", "follow_on", "label_on", "measure"]
