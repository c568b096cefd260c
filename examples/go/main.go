// Joins, waits for the welcome coupon, and leaves: buf generate && go run . [ADDRESS]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	memberv1 "welcome/gen/couponmesh/member/v1"
	mypagev1 "welcome/gen/couponmesh/mypage/v1"
)

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	// Calls that get UNAVAILABLE are repeated, after the pause that the server asks for.
	config := must(os.ReadFile("../service_config.json"))
	channel := must(grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config))))
	defer channel.Close()
	members, pages := memberv1.NewMemberServiceClient(channel), mypagev1.NewMyPageServiceClient(channel)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// The request id makes repeats harmless: they get the member of the first.
	request := &memberv1.RegisterMemberRequest{
		RequestId: uuid.NewString(), Email: uuid.NewString() + "@example.com", DisplayName: "Ann",
	}
	member := must(members.RegisterMember(ctx, request)).Member
	fmt.Println("registered", member.MemberId)
	fmt.Println("repeated  ", must(members.RegisterMember(ctx, request)).Member.MemberId)

	other := &memberv1.RegisterMemberRequest{Email: request.Email, DisplayName: "Another Ann"}
	_, err := members.RegisterMember(ctx, other)
	fmt.Println("refused   ", reason(err))

	fmt.Println("coupon    ", coupon(ctx, pages, member.MemberId))

	leave := &memberv1.WithdrawMemberRequest{RequestId: uuid.NewString(), MemberId: member.MemberId}
	withdrawal := must(members.WithdrawMember(ctx, leave)).Withdrawal
	for withdrawal.State == memberv1.WithdrawalState_WITHDRAWAL_STATE_PENDING {
		time.Sleep(time.Second)
		ask := &memberv1.GetWithdrawalRequest{WithdrawalId: withdrawal.WithdrawalId}
		withdrawal = must(members.GetWithdrawal(ctx, ask)).Withdrawal
	}
	fmt.Println("withdrawn ", withdrawal.State)
}

// The code of a member's coupon, once there is one.
func coupon(ctx context.Context, pages mypagev1.MyPageServiceClient, id string) string {
	for {
		watch := must(pages.WatchMyPage(ctx, &mypagev1.WatchMyPageRequest{MemberId: id}))
		for {
			response, err := watch.Recv()
			if status.Code(err) == codes.Unavailable {
				break // The server drains: watch the next one.
			}
			if page := must(response, err).Page; page.CouponCode != "" {
				return page.CouponCode
			}
		}
	}
}

// Why a call was refused, for programs.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "couponmesh" {
			return info.Reason
		}
	}
	return ""
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
