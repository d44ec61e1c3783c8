from agent.templates.base import InvalidTemplate as InvalidTemplate
from agent.templates.registry import cards as cards
from agent.templates.registry import design as design
from agent.templates.registry import names as names
from agent.templates.registry import source as source
