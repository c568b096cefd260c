// Joins, waits for the welcome coupon, and leaves: npm run build && npm start [ADDRESS]
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

import { ChannelCredentials, ClientError, Status, createChannel, createClientFactory } from "nice-grpc";
import { RichClientError, errorDetailsClientMiddleware } from "nice-grpc-error-details";

import { MemberServiceDefinition, WithdrawalState } from "./gen/couponmesh/member/v1/member.js";
import { type MyPageServiceClient, MyPageServiceDefinition } from "./gen/couponmesh/mypage/v1/mypage.js";

/** The code of a member's coupon, once there is one. */
async function coupon(pages: MyPageServiceClient, memberId: string, signal: AbortSignal): Promise<string> {
  for (;;) {
    try {
      for await (const { page } of pages.watchMyPage({ memberId }, { signal })) {
        if (page?.couponCode) return page.couponCode;
      }
    } catch (error) {
      // The server drains: watch the next one.
      if (!(error instanceof ClientError) || error.code !== Status.UNAVAILABLE) throw error;
    }
  }
}

/** Why a call was refused, for programs. */
function reason(error: unknown): string | undefined {
  const details = error instanceof RichClientError ? error.extra : [];
  for (const detail of details) {
    if (detail.$type === "google.rpc.ErrorInfo" && detail.domain === "couponmesh") return detail.reason;
  }
  return undefined;
}

// Calls that get UNAVAILABLE are repeated, after the pause that the server asks for.
const config = readFileSync("../service_config.json", "utf8");
const address = process.argv[2] ?? "127.0.0.1:50051";
const channel = createChannel(address, ChannelCredentials.createInsecure(), { "grpc.service_config": config });
const clients = createClientFactory().use(errorDetailsClientMiddleware);
const members = clients.create(MemberServiceDefinition, channel);
const pages = clients.create(MyPageServiceDefinition, channel);
const signal = AbortSignal.timeout(30_000);

// The request id makes repeats harmless: they get the member of the first.
const email = `${randomUUID()}@example.com`;
const request = { requestId: randomUUID(), email, displayName: "Ann" };
const { member } = await members.registerMember(request, { signal });
const memberId = member!.memberId;
console.log("registered", memberId);
console.log("repeated  ", (await members.registerMember(request, { signal })).member!.memberId);

try {
  await members.registerMember({ email, displayName: "Another Ann" }, { signal });
} catch (error) {
  console.log("refused   ", reason(error));
}

console.log("coupon    ", await coupon(pages, memberId, signal));

let { withdrawal } = await members.withdrawMember({ requestId: randomUUID(), memberId }, { signal });
while (withdrawal!.state === WithdrawalState.WITHDRAWAL_STATE_PENDING) {
  await setTimeout(1_000);
  ({ withdrawal } = await members.getWithdrawal({ withdrawalId: withdrawal!.withdrawalId }, { signal }));
}
console.log("withdrawn ", withdrawal!.state);
channel.close();
