"""The IM callback gateway: Tencent Cloud Chat callbacks to RabbitMQ and on to other systems."""

__version__ = "0.1.0"
