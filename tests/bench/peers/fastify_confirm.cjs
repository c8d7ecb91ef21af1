// Fastify, and amqplib's publish on a confirm channel, awaited, then the answer.
const [, , port, url] = process.argv;
const amqp = require("amqplib");
const fastify = require("fastify")();

(async () => {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  fastify.post("/callback", async (request) => {
    const { SdkAppid, CallbackCommand } = request.query;
    await new Promise((done, failed) =>
      channel.publish(
        "bench.events",
        `${CallbackCommand}.${SdkAppid}`,
        Buffer.from(JSON.stringify(request.body)),
        { persistent: true, mandatory: true, headers: { partitionkey: request.body.GroupId } },
        (error) => (error ? failed(error) : done()),
      ),
    );
    return { ActionStatus: "OK", ErrorCode: 0, ErrorInfo: "" };
  });
  await fastify.listen({ port: Number(port), host: "127.0.0.1" });
})();
