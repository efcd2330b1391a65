"""The small restoration painter, which paints by denoising steps."""
