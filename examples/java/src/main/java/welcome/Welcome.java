package welcome;

import static java.util.concurrent.TimeUnit.SECONDS;

import com.couponmesh.member.v1.GetWithdrawalRequest;
import com.couponmesh.member.v1.MemberServiceGrpc;
import com.couponmesh.member.v1.RegisterMemberRequest;
import com.couponmesh.member.v1.WithdrawMemberRequest;
import com.couponmesh.member.v1.WithdrawalState;
import com.couponmesh.mypage.v1.MyPageServiceGrpc;
import com.couponmesh.mypage.v1.WatchMyPageRequest;
import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.UUID;

/** Joins, waits for the welcome coupon, and leaves: mvn compile exec:java -Dexec.args=ADDRESS. */
public final class Welcome {
  public static void main(String[] args) throws Exception {
    var address = args.length > 0 ? args[0] : "127.0.0.1:50051";
    // Calls that get UNAVAILABLE are repeated, after the pause that the server asks for.
    Map<String, ?> config = new Gson().fromJson(Files.readString(Path.of("../service_config.json")), Map.class);
    var channel = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
        .defaultServiceConfig(config)
        .enableRetry()
        .build();
    var members = MemberServiceGrpc.newBlockingStub(channel);
    var pages = MyPageServiceGrpc.newBlockingStub(channel);

    // The request id makes repeats harmless: they get the member of the first.
    var email = UUID.randomUUID() + "@example.com";
    var request = RegisterMemberRequest.newBuilder()
        .setRequestId(UUID.randomUUID().toString()).setEmail(email).setDisplayName("Ann").build();
    var id = members.withDeadlineAfter(10, SECONDS).registerMember(request).getMember().getMemberId();
    System.out.println("registered " + id);
    var again = members.withDeadlineAfter(10, SECONDS).registerMember(request).getMember();
    System.out.println("repeated   " + again.getMemberId());

    var other = RegisterMemberRequest.newBuilder().setEmail(email).setDisplayName("Another Ann").build();
    try {
      members.withDeadlineAfter(10, SECONDS).registerMember(other);
    } catch (StatusRuntimeException refused) {
      System.out.println("refused    " + reason(refused));
    }

    System.out.println("coupon     " + coupon(pages, id));

    var leave = WithdrawMemberRequest.newBuilder()
        .setRequestId(UUID.randomUUID().toString()).setMemberId(id).build();
    var withdrawal = members.withDeadlineAfter(10, SECONDS).withdrawMember(leave).getWithdrawal();
    while (withdrawal.getState() == WithdrawalState.WITHDRAWAL_STATE_PENDING) {
      SECONDS.sleep(1);
      var ask = GetWithdrawalRequest.newBuilder().setWithdrawalId(withdrawal.getWithdrawalId()).build();
      withdrawal = members.withDeadlineAfter(10, SECONDS).getWithdrawal(ask).getWithdrawal();
    }
    System.out.println("withdrawn  " + withdrawal.getState());
    channel.shutdownNow().awaitTermination(5, SECONDS);
  }

  /** The code of a member's coupon, once there is one. */
  private static String coupon(MyPageServiceGrpc.MyPageServiceBlockingStub pages, String id) {
    var request = WatchMyPageRequest.newBuilder().setMemberId(id).build();
    while (true) {
      try {
        var watch = pages.withDeadlineAfter(30, SECONDS).watchMyPage(request);
        while (watch.hasNext()) {
          var code = watch.next().getPage().getCouponCode();
          if (!code.isEmpty()) {
            return code;
          }
        }
      } catch (StatusRuntimeException ended) {
        // The server drains: watch the next one.
        if (ended.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw ended;
        }
      }
    }
  }

  /** Why a call was refused, for programs. */
  private static String reason(StatusRuntimeException refused) throws Exception {
    for (Any detail : StatusProto.fromThrowable(refused).getDetailsList()) {
      if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("couponmesh")) {
        return detail.unpack(ErrorInfo.class).getReason();
      }
    }
    return "";
  }
}
