"""The catalogue of multiview objectives, by which encoders are pretrained: a file a method."""
