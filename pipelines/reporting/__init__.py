"""Tables, pictures and the page of `crossmodal report`."""
