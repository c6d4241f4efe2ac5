"""HTTP/1.1 as this proxy speaks it: one import for what the files beside this one define.

http1_head.py      gathers a head and reads its fields (llhttp)
http1_body.py      gathers or decodes a body
http1_request.py   requests of clients, and the rules they must keep
http1_response.py  responses of servers
http1_write.py     our responses
"""

from __future__ import annotations

from protocol.http1_head import HttpError as HttpError
from protocol.http1_request import Request as Request
from protocol.http1_request import RequestParser as RequestParser
from protocol.http1_response import ResponseError as ResponseError
from protocol.http1_response import ResponseHandler as ResponseHandler
from protocol.http1_response import ResponseHead as ResponseHead
from protocol.http1_response import ResponseParser as ResponseParser
from protocol.http1_write import CONTINUE as CONTINUE
from protocol.http1_write import LAST_CHUNK as LAST_CHUNK
from protocol.http1_write import chunk as chunk
from protocol.http1_write import response as response
from protocol.http1_write import response_head as response_head
