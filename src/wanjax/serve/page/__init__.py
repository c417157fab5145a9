"""A page on the server: a client of the same queue as the API's, drawn by Gradio."""
