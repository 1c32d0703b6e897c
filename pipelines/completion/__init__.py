"""`crossmodal completion`: a script with which a shell completes commands, options and config keys."""
