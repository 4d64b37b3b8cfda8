"""Policy files, ONNX files and cards."""
