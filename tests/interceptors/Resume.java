import java.io.FileInputStream;
import java.io.InputStream;
import java.net.SocketTimeoutException;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** Sends the same bytes over two connections of one stock SSLContext; prints when the session began and the answer. */
public class Resume {
    public static void main(String[] arguments) throws Exception {
        SSLContext context = context(arguments[1], arguments[2]);
        byte[] request = HexFormat.of().parseHex(arguments[3]);
        for (int connection = 0; connection < 2; connection++) {
            try (SSLSocket socket = (SSLSocket)
                    context.getSocketFactory().createSocket("127.0.0.1", Integer.parseInt(arguments[0]))) {
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setApplicationProtocols(new String[] {"h2"});
                socket.setSSLParameters(parameters);
                socket.setSoTimeout(1000);
                socket.getOutputStream().write(request);
                String answer = HexFormat.of().formatHex(everything(socket.getInputStream()));
                System.out.println(socket.getSession().getCreationTime() + " " + answer);
            }
        }
    }

    private static byte[] everything(InputStream stream) throws Exception {
        byte[] buffer = new byte[65536];
        int size = 0;
        try {
            for (int read; (read = stream.read(buffer, size, buffer.length - size)) > 0; ) {
                size += read;
            }
        } catch (SocketTimeoutException quiet) {
            // The server has said all it will.
        }
        return java.util.Arrays.copyOf(buffer, size);
    }

    private static SSLContext context(String own, String root) throws Exception {
        KeyStore keys = KeyStore.getInstance("PKCS12");
        keys.load(new FileInputStream(own), "shown".toCharArray());
        KeyManagerFactory shown = KeyManagerFactory.getInstance("PKIX");
        shown.init(keys, "shown".toCharArray());
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        trusted.setCertificateEntry(
                "root", CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(root)));
        TrustManagerFactory believed = TrustManagerFactory.getInstance("PKIX");
        believed.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(shown.getKeyManagers(), believed.getTrustManagers(), null);
        return context;
    }
}
