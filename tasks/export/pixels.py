"""From pictures to a network's batch inside an ONNX graph, to the bit as `tasks.data.loading.images.resize` does it.

OpenCV's INTER_LINEAR on uint8 is arithmetic on integers: weights of 11 bits along each side, and two roundings. ONNX's
own Resize differs from it in a tenth of all bytes.
"""

import onnx
from onnx import TensorProto, helper

from tasks.preprocessing import Preprocessing

PREFIX = "pixels/"


def check_preprocessing(preprocessing: Preprocessing) -> None:
    """ValueError for one that no graph reproduces."""
    if preprocessing.antialias and preprocessing.short_side is not None:
        raise ValueError(
            "input=pictures: preprocessing.antialias=true is Pillow's resizing, which has no operator in a graph; give "
            "input=network, and predict.py resizes with Pillow"
        )


def pixels_onnx(preprocessing: Preprocessing, ir_version: int, opset: int) -> onnx.ModelProto:
    """`pictures` uint8 (B, H, W, 3), all of one size, to `images` uint8 (B, 3, H', W'), `sizes` int64 (B, 2), and
    `scale` float32 (4,), by which boxes in the images become those in the pictures."""
    check_preprocessing(preprocessing)
    text = f"""
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
pixels (uint8[batch,height,width,3] pictures)
    => (uint8[batch,3,rows,columns] images, int64[batch,2] sizes, float[4] scale) {{
  original = Shape <start = 1, end = 3> (pictures)
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  two = Constant <value_ints = [2]> ()
  {_new_size(preprocessing)}
  old_height, old_width = Split <axis = 0, num_outputs = 2> (original)
  new_height, new_width = Split <axis = 0, num_outputs = 2> (resized)
  half = Constant <value = double[1] {{0.5}}> ()
  unit = Constant <value = double[1] {{1.0}}> ()
  full = Constant <value_floats = [2048.0]> ()
  whole = Constant <value_floats = [1.0]> ()
  none = Constant <value_floats = [0.0]> ()
  {_side("x", "width")}
  last_x = Sub (old_width, one)
  x_before = Less (x_first, zero)
  x_after = GreaterOrEqual (x_first, last_x)
  x_outside = Or (x_before, x_after)
  x_inner = Where (x_outside, none, x_share)
  {_side_weights("x", "x_inner", "width", 1)}
  {_side("y", "height")}
  {_side_weights("y", "y_share", "height", 2)}
  left = Gather <axis = 2> (pictures, x_low)
  right = Gather <axis = 2> (pictures, x_high)
  left_values = Cast <to = {TensorProto.UINT32}> (left)
  right_values = Cast <to = {TensorProto.UINT32}> (right)
  left_part = Mul (left_values, x_a)
  right_part = Mul (right_values, x_b)
  line = Add (left_part, right_part)
  four_bits = Constant <value = uint32[1] {{4}}> ()
  line_short = BitShift <direction = "RIGHT"> (line, four_bits)
  upper = Gather <axis = 1> (line_short, y_low)
  lower = Gather <axis = 1> (line_short, y_high)
  upper_part = Mul (upper, y_a)
  lower_part = Mul (lower, y_b)
  sixteen_bits = Constant <value = uint32[1] {{16}}> ()
  upper_short = BitShift <direction = "RIGHT"> (upper_part, sixteen_bits)
  lower_short = BitShift <direction = "RIGHT"> (lower_part, sixteen_bits)
  mixed = Add (upper_short, lower_short)
  rounding = Constant <value = uint32[1] {{2}}> ()
  rounded = Add (mixed, rounding)
  two_bits = Constant <value = uint32[1] {{2}}> ()
  value = BitShift <direction = "RIGHT"> (rounded, two_bits)
  bytes = Cast <to = {TensorProto.UINT8}> (value)
  {_crop_and_pad(preprocessing)}
  images = Transpose <perm = [0, 3, 1, 2]> (whole_images)
  batch_size = Shape <start = 0, end = 1> (pictures)
  size_shape = Concat <axis = 0> (batch_size, two)
  size_row = Unsqueeze (valid, zero)
  sizes = Expand (size_row, size_shape)
  original_float = Cast <to = {TensorProto.FLOAT}> (original)
  valid_float = Cast <to = {TensorProto.FLOAT}> (valid)
  ratio = Div (original_float, valid_float)
  order = Constant <value_ints = [1, 0, 1, 0]> ()
  scale = Gather (ratio, order)
}}
"""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def _new_size(preprocessing: Preprocessing) -> str:
    """`resized` int64 (2,) of `original`: `Preprocessing.output_size`, which rounds as double precision does."""
    short = preprocessing.short_side
    if short is None:
        return "resized = Identity (original)"
    if preprocessing.center_crop is not None:
        return f"""
  shortest = ReduceMin <keepdims = 1> (original)
  wanted = Constant <value_ints = [{short}]> ()
  product = Mul (original, wanted)
  resized = Div (product, shortest)"""
    return f"""
  exact = Cast <to = {TensorProto.DOUBLE}> (original)
  shortest = ReduceMin <keepdims = 1> (exact)
  longest = ReduceMax <keepdims = 1> (exact)
  wanted_short = Constant <value = double[1] {{{float(short)}}}> ()
  wanted_long = Constant <value = double[1] {{{float(preprocessing.max_size)}}}> ()
  by_short = Div (wanted_short, shortest)
  by_long = Div (wanted_long, longest)
  factor = Min (by_short, by_long)
  scaled = Mul (exact, factor)
  floored = Cast <to = {TensorProto.INT64}> (scaled)
  resized = Max (floored, one)"""


def _side(axis: str, side: str) -> str:
    """Of each new pixel along a side: the pixel before its middle, and how far that lies behind it."""
    return f"""
  {axis}_old = Cast <to = {TensorProto.DOUBLE}> (old_{side})
  {axis}_new = Cast <to = {TensorProto.DOUBLE}> (new_{side})
  {axis}_inverse = Div ({axis}_new, {axis}_old)
  {axis}_step = Div (unit, {axis}_inverse)
  {axis}_start = Squeeze (zero, zero)
  {axis}_end = Squeeze (new_{side}, zero)
  {axis}_delta = Squeeze (one, zero)
  {axis}_range = Range ({axis}_start, {axis}_end, {axis}_delta)
  {axis}_index = Cast <to = {TensorProto.DOUBLE}> ({axis}_range)
  {axis}_middle = Add ({axis}_index, half)
  {axis}_product = Mul ({axis}_middle, {axis}_step)
  {axis}_exact = Sub ({axis}_product, half)
  {axis}_place = Cast <to = {TensorProto.FLOAT}> ({axis}_exact)
  {axis}_floor = Floor ({axis}_place)
  {axis}_share = Sub ({axis}_place, {axis}_floor)
  {axis}_first = Cast <to = {TensorProto.INT64}> ({axis}_floor)"""


def _side_weights(axis: str, share: str, side: str, trailing: int) -> str:
    """Both neighbours of each new pixel, inside the picture, and their weights with `trailing` sides of 1 behind."""
    axes = ", ".join(map(str, range(1, trailing + 1)))
    return f"""
  {axis}_limit = Sub (old_{side}, one)
  {axis}_last = Squeeze ({axis}_limit, zero)
  {axis}_zero = Squeeze (zero, zero)
  {axis}_second = Add ({axis}_first, one)
  {axis}_low = Clip ({axis}_first, {axis}_zero, {axis}_last)
  {axis}_high = Clip ({axis}_second, {axis}_zero, {axis}_last)
  {axis}_rest = Sub (whole, {share})
  {axis}_a_exact = Mul ({axis}_rest, full)
  {axis}_b_exact = Mul ({share}, full)
  {axis}_a_round = Round ({axis}_a_exact)
  {axis}_b_round = Round ({axis}_b_exact)
  {axis}_a_int = Cast <to = {TensorProto.UINT32}> ({axis}_a_round)
  {axis}_b_int = Cast <to = {TensorProto.UINT32}> ({axis}_b_round)
  {axis}_axes = Constant <value_ints = [{axes}]> ()
  {axis}_a = Unsqueeze ({axis}_a_int, {axis}_axes)
  {axis}_b = Unsqueeze ({axis}_b_int, {axis}_axes)"""


def _crop_and_pad(preprocessing: Preprocessing) -> str:
    """`whole_images` (B, H', W', 3) and `valid` int64 (2,), the size of what is not padding, of `bytes`."""
    side = preprocessing.center_crop
    if side is not None:  # halves are rounded to even, as Python does
        return f"""
  crop = Constant <value_ints = [{side}, {side}]> ()
  spare = Sub (resized, crop)
  spare_float = Cast <to = {TensorProto.DOUBLE}> (spare)
  spare_half = Mul (spare_float, half)
  spare_round = Round (spare_half)
  begin = Cast <to = {TensorProto.INT64}> (spare_round)
  finish = Add (begin, crop)
  crop_axes = Constant <value_ints = [1, 2]> ()
  whole_images = Slice (bytes, begin, finish, crop_axes)
  valid = Identity (crop)"""
    step = preprocessing.pad_multiple
    return f"""
  valid = Identity (resized)
  step = Constant <value_ints = [{step}]> ()
  less = Constant <value_ints = [{step - 1}]> ()
  over = Add (resized, less)
  steps = Div (over, step)
  padded_size = Mul (steps, step)
  missing = Sub (padded_size, resized)
  before = Constant <value_ints = [0, 0, 0, 0, 0]> ()
  pads = Concat <axis = 0> (before, missing, zero)
  whole_images = Pad (bytes, pads)"""


def with_pixels(network: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """The graph of a network with pictures as its input, and boxes in their pixels."""
    opset = next(item.version for item in network.opset_import if item.domain == "")
    pixels = pixels_onnx(preprocessing, network.ir_version, opset)
    pixels = onnx.compose.add_prefix(pixels, PREFIX, rename_inputs=False, rename_functions=False)
    names = ("images", "sizes")
    outputs = [output.name for output in network.graph.output]
    merged = onnx.compose.merge_models(
        pixels,
        network,
        io_map=[(PREFIX + name, name) for name in names],
        outputs=[*outputs, PREFIX + "scale"],  # or the nodes that make it would be left out
    )
    merged.graph.output.remove(next(o for o in merged.graph.output if o.name == PREFIX + "scale"))
    if "boxes" in outputs:
        for node in merged.graph.node:
            for i, name in enumerate(node.output):
                if name == "boxes":
                    node.output[i] = "boxes_in_images"
            for i, name in enumerate(node.input):
                if name == "boxes":
                    node.input[i] = "boxes_in_images"
        merged.graph.node.append(helper.make_node("Mul", ["boxes_in_images", PREFIX + "scale"], ["boxes"]))
    return merged
