"""--mode=serve: a model behind HTTP and WebSocket, and a page to try it on."""
