"""`crossmodal init`: looks at a recording or a folder of files, and proposes the configs of a first transfer."""
