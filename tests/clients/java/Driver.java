// The Java client as a driver: java -cp 'JARS/*' Driver.java. See ../driver.mjs for what it reads and prints.

import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Socket;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import okhttp3.Dispatcher;
import okhttp3.OkHttpClient;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

public class Driver {
    static final Map<String, Socket> sockets = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        // OkHttp's default is five polls at once for all clients of a process. The other settings are the client's own.
        Dispatcher dispatcher = new Dispatcher();
        dispatcher.setMaxRequests(1000);
        dispatcher.setMaxRequestsPerHost(1000);
        OkHttpClient http = new OkHttpClient.Builder().dispatcher(dispatcher).readTimeout(1, TimeUnit.MINUTES).build();
        IO.setDefaultOkHttpCallFactory(http);
        IO.setDefaultOkHttpWebSocketFactory(http);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            JSONObject command = new JSONObject(line);
            String client = command.getString("client");
            switch (command.getString("do")) {
                case "open" -> open(client, command);
                case "ask" -> sockets.get(client).emit(command.getString("event"), args(command.getJSONArray("args")), (Ack) answer -> say(client, "ack", answer));
                case "close" -> sockets.get(client).close();
                default -> throw new IllegalArgumentException(line);
            }
        }
        System.exit(0);
    }

    static void open(String client, JSONObject command) throws JSONException {
        IO.Options options = new IO.Options();
        options.forceNew = true;
        options.reconnectionDelay = 200;
        options.reconnectionDelayMax = 500;
        JSONArray transports = command.getJSONArray("transports");
        options.transports = new String[transports.length()];
        for (int i = 0; i < transports.length(); i++) options.transports[i] = transports.getString(i);
        options.auth = new HashMap<>();
        JSONObject auth = command.getJSONObject("auth");
        for (String key : JSONObject.getNames(auth)) options.auth.put(key, auth.getString(key));

        Socket socket = IO.socket(URI.create(command.getString("url")), options);
        sockets.put(client, socket);
        socket.on(Socket.EVENT_CONNECT, args -> say(client, "connect"));
        socket.on(Socket.EVENT_CONNECT_ERROR, args -> say(client, "connect_error", args[0] instanceof JSONObject ? args[0] : new JSONObject(Map.of("message", args[0].toString()))));
        socket.on(Socket.EVENT_DISCONNECT, args -> say(client, "disconnect", args[0]));
        socket.onAnyIncoming(all -> {
            Ack ack = all[all.length - 1] instanceof Ack last ? last : null;
            Object[] args = Arrays.copyOfRange(all, 1, all.length - (ack == null ? 0 : 1));
            say(client, (String) all[0], args);
            if (ack != null) ack.call(args);
        });
        socket.connect();
    }

    static Object[] args(JSONArray given) throws JSONException {
        Object[] args = new Object[given.length()];
        for (int i = 0; i < args.length; i++) {
            String bytes = given.get(i) instanceof JSONObject object ? object.optString("$base64", null) : null;
            args[i] = bytes == null ? given.get(i) : Base64.getDecoder().decode(bytes);
        }
        return args;
    }

    static synchronized void say(String client, String name, Object... args) {
        JSONArray shown = new JSONArray();
        for (Object arg : args) shown.put(arg instanceof byte[] bytes ? Map.of("$base64", Base64.getEncoder().encodeToString(bytes)) : arg);
        try {
            System.out.println(new JSONObject().put("client", client).put("name", name).put("args", shown));
        } catch (JSONException error) {
            throw new IllegalStateException(error);
        }
    }
}
