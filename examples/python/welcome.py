"""Joins, waits for the welcome coupon, and leaves: python welcome.py [ADDRESS], see README.md."""

import pathlib
import sys
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from couponmesh.member.v1 import member_pb2 as member, member_pb2_grpc as member_grpc
from couponmesh.mypage.v1 import mypage_pb2 as mypage, mypage_pb2_grpc as mypage_grpc


def coupon(pages, member_id):
    """The code of a member's coupon, once there is one."""
    while True:
        try:
            for response in pages.WatchMyPage(mypage.WatchMyPageRequest(member_id=member_id), timeout=30):
                if response.page.coupon_code:
                    return response.page.coupon_code
        except grpc.RpcError as error:
            # The server drains: watch the next one.
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise


def reason(error):
    """Why a call was refused, for programs."""
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info) and info.domain == "couponmesh":
            return info.reason


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
# Calls that get UNAVAILABLE are repeated, after the pause that the server asks for.
config = (pathlib.Path(__file__).parent.parent / "service_config.json").read_text()
with grpc.insecure_channel(address, [("grpc.service_config", config)]) as channel:
    members, pages = member_grpc.MemberServiceStub(channel), mypage_grpc.MyPageServiceStub(channel)

    # The request id makes repeats harmless: they get the member of the first.
    email = f"{uuid.uuid4()}@example.com"
    request = member.RegisterMemberRequest(request_id=str(uuid.uuid4()), email=email, display_name="Ann")
    ann = members.RegisterMember(request, timeout=10).member
    print("registered", ann.member_id)
    print("repeated  ", members.RegisterMember(request, timeout=10).member.member_id)

    try:
        members.RegisterMember(member.RegisterMemberRequest(email=email, display_name="Another Ann"), timeout=10)
    except grpc.RpcError as error:
        print("refused   ", reason(error))

    print("coupon    ", coupon(pages, ann.member_id))

    leave = member.WithdrawMemberRequest(request_id=str(uuid.uuid4()), member_id=ann.member_id)
    withdrawal = members.WithdrawMember(leave, timeout=10).withdrawal
    while withdrawal.state == member.WITHDRAWAL_STATE_PENDING:
        time.sleep(1)
        ask = member.GetWithdrawalRequest(withdrawal_id=withdrawal.withdrawal_id)
        withdrawal = members.GetWithdrawal(ask, timeout=10).withdrawal
    print("withdrawn ", member.WithdrawalState.Name(withdrawal.state))
