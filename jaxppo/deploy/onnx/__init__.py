"""The live step as an ONNX graph; needs the extra `onnx`."""
