from ambient_sweep.evaluation.encoders.weights import file_sha256 as file_sha256
