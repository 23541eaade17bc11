"""What a trained model is for outside of the recipes: an exit alone, as ONNX for sherpa-onnx, text from audio files."""
