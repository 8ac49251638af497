"""A model as a web service: pictures in, JSON out.

python examples/serve.py exported/model.onnx       needs fastapi and uvicorn
curl --data-binary @photo.jpg localhost:8000/predict
"""

import asyncio
import io
import sys

from fastapi import FastAPI, HTTPException, Request
from PIL import Image

import tasks

MOST_BYTES = 20_000_000


def service(model: str, most_bytes: int = MOST_BYTES) -> FastAPI:
    """The application; `most_bytes` are those of the largest picture that it takes."""
    app, turn = FastAPI(), asyncio.Lock()
    predictor = tasks.load_predictor(model)  # a .safetensors as well as an exported .onnx

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > most_bytes:
                raise HTTPException(413, f"the picture has more than {most_bytes} bytes; send a smaller one")
        try:
            image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP"))
            if image.width * image.height > 50_000_000:
                raise HTTPException(
                    413, f"the picture has {image.width} x {image.height} pixels; send a smaller one"
                )
            async with turn:  # one at a time: a network takes all cores
                return (await asyncio.to_thread(predictor, image)).to_dict()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise HTTPException(400, f"this is not a picture that can be read ({error})") from None

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(service(sys.argv[1]))
