"""What leaves the house: one exit alone, and as an ONNX model for sherpa-onnx."""
