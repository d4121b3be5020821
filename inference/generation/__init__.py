"""Text generation by any host that speaks the OpenAI-compatible chat protocol: Fireworks, vLLM, llama-server, others.

Ask ─▶ ChatClient ─▶ pieces of text as they come; `Usage` last        no endpoint: nobody calls this
"""

from inference.generation.chat import ChatClient
from inference.generation.contract import Ask, GenerationError, Generator, Message, Usage
from inference.generation.settings import ChatSettings

__all__ = ["Ask", "ChatClient", "ChatSettings", "GenerationError", "Generator", "Message", "Usage"]
